//! What holds for any bytes that the network brings: no panic, no hang, and each parser's own promise.
//!
//! In: bytes of somebody else's choosing. Out: nothing, or a panic that names the broken promise. `cargo fuzz`
//! searches for such bytes (scripts/fuzz.sh); `tests/mutations.rs` tries some from a fixed seed on every run of the
//! tests. `fuzz/corpus` holds where both begin, and what once broke a promise.
//!
//! Not here: what serde_json, prost, hyper, rustls and hickory parse by themselves.

mod cluster;
mod http1;
mod http2;
mod node;
mod proxy;

/// Panics where the promise is broken.
pub type Property = fn(&[u8]);

/// All by name, which is also that of its folder of the corpus.
pub const PROPERTIES: &[(&str, Property)] = &[
    ("chunks", http1::chunks),
    ("client_hello", proxy::client_hello),
    ("detect", proxy::detect),
    ("dns", node::dns),
    ("h2_client", http2::h2_client),
    ("h2_server", http2::h2_server),
    ("hpack", http2::hpack),
    ("huffman", http2::huffman),
    ("protobuf", cluster::protobuf),
    ("request_head", http1::request_head),
    ("response_head", http1::response_head),
    ("spdy", node::spdy),
    ("spdy_headers", node::spdy_headers),
    ("websocket", node::websocket),
    ("xds", proxy::xds),
];

/// Tries one property.
///
/// # Panics
/// When it does not hold, or there is none of that name.
pub fn check(name: &str, bytes: &[u8]) {
    let found = PROPERTIES.iter().find(|(known, _)| *known == name);
    let (_, property) = found.unwrap_or_else(|| panic!("no property {name}"));
    property(bytes);
}
