//! What the servers read from clients.

use trireme_model::protobuf;

/// A body in Kubernetes' protobuf form is refused, or means the same after it was written again.
pub fn protobuf(bytes: &[u8]) {
    let Ok(object) = protobuf::decode(bytes) else {
        return;
    };
    let Ok(again) = protobuf::encode(&object) else {
        return;
    };
    let object_again = protobuf::decode(&again).expect("what was written is read");
    let twice = protobuf::encode(&object_again).expect("and can be written");
    assert_eq!(twice, again);
}
