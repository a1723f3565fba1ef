//! gRPC's status codes as an abort names them.

/// By their number.
const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The number of a status that is named in capitals or given as its number; `None` where gRPC has none such.
pub fn grpc_status(text: &str) -> Option<u32> {
    let named = NAMES.iter().position(|name| *name == text);
    let place = named.or_else(|| text.parse().ok().filter(|number| *number < NAMES.len()));
    place.and_then(|place| u32::try_from(place).ok())
}

#[cfg(test)]
mod tests {
    use super::grpc_status;

    #[test]
    fn names_and_numbers() {
        assert_eq!(grpc_status("OK"), Some(0));
        assert_eq!(grpc_status("UNAVAILABLE"), Some(14));
        assert_eq!(grpc_status("16"), Some(16));
        assert_eq!(grpc_status("17"), None);
        assert_eq!(grpc_status("unavailable"), None);
        assert_eq!(grpc_status(""), None);
    }
}
