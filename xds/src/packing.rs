//! Messages to `Any` and back.

use prost::{Message, Name};

use crate::canonical;
use crate::pb::google::protobuf::Any;

/// Why an `Any` does not hold what it should.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum UnpackError {
    #[error("holds {found}, not {expected}")]
    Type { expected: String, found: String },
    #[error("holds no valid {expected}: {source}")]
    Bytes {
        expected: String,
        source: prost::DecodeError,
    },
}

/// The URL that marks `T` inside an `Any`.
pub fn type_url<T: Name>() -> String {
    T::type_url()
}

/// The message in an `Any`, with maps in the order of their keys: equal messages give equal bytes.
pub fn pack<T: Message + Name>(message: &T) -> Any {
    Any {
        type_url: T::type_url(),
        value: encode(message),
    }
}

/// The bytes of a message, with maps in the order of their keys (protobuf leaves it open and the
/// generated types hold them in random order).
pub fn encode<T: Message + Name>(message: &T) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    canonical::sort_maps(&T::full_name(), bytes)
}

/// The message inside an `Any`.
pub fn unpack<T: Message + Name + Default>(any: &Any) -> Result<T, UnpackError> {
    if any.type_url != T::type_url() {
        return Err(UnpackError::Type {
            expected: T::full_name(),
            found: any.type_url.clone(),
        });
    }
    T::decode(any.value.as_slice()).map_err(|source| UnpackError::Bytes {
        expected: T::full_name(),
        source,
    })
}
