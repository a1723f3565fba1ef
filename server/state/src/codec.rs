//! Commands as bytes, for the log.
//!
//! Decoding copies nothing: keys and values are slices of the entry they came in. All numbers are
//! big-endian; a list is its length and then its items; a string of bytes is its length and itself.
//! The first byte says what follows, so that later versions can add forms and still read old logs.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::command::{Command, Compare, Operation, Txn};

const TXN: u8 = 1;
const COMPACT: u8 = 2;

const MOD_REVISION: u8 = 1;
const EXISTS: u8 = 2;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const GET: u8 = 3;

/// The bytes are no command, or one of a later version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("a command is cut short")]
    Short,
    #[error("a command has {0} bytes too many")]
    Long(usize),
    #[error("a command has a part of unknown kind {0}")]
    Unknown(u8),
}

impl Command {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_bytes());
        match self {
            Command::Compact { revision } => {
                out.put_u8(COMPACT);
                out.put_u64(*revision);
            }
            Command::Txn(txn) => {
                out.put_u8(TXN);
                out.put_u32(txn.compare.len() as u32);
                for compare in &txn.compare {
                    match compare {
                        Compare::ModRevision { key, equals } => {
                            out.put_u8(MOD_REVISION);
                            put_bytes(&mut out, key);
                            out.put_u64(*equals);
                        }
                        Compare::Exists { key } => {
                            out.put_u8(EXISTS);
                            put_bytes(&mut out, key);
                        }
                    }
                }
                for operations in [&txn.success, &txn.failure] {
                    out.put_u32(operations.len() as u32);
                    for operation in operations {
                        match operation {
                            Operation::Put { key, value } => {
                                out.put_u8(PUT);
                                put_bytes(&mut out, key);
                                put_bytes(&mut out, value);
                            }
                            Operation::Delete { key } => {
                                out.put_u8(DELETE);
                                put_bytes(&mut out, key);
                            }
                            Operation::Get { key } => {
                                out.put_u8(GET);
                                put_bytes(&mut out, key);
                            }
                        }
                    }
                }
            }
        }
        out.freeze()
    }

    /// The size of what [`encode`](Self::encode) makes.
    pub fn encoded_bytes(&self) -> usize {
        let Command::Txn(txn) = self else { return 9 };
        let compare = txn.compare.iter().map(|compare| match compare {
            Compare::ModRevision { key, .. } => 13 + key.len(),
            Compare::Exists { key } => 5 + key.len(),
        });
        let operations = txn.success.iter().chain(&txn.failure);
        let operations = operations.map(|operation| match operation {
            Operation::Put { key, value } => 9 + key.len() + value.len(),
            Operation::Delete { key } | Operation::Get { key } => 5 + key.len(),
        });
        13 + compare.sum::<usize>() + operations.sum::<usize>()
    }

    pub fn decode(mut bytes: Bytes) -> Result<Command, CodecError> {
        let from = &mut bytes;
        let command = match take_u8(from)? {
            COMPACT => Command::Compact {
                revision: take_u64(from)?,
            },
            TXN => Command::Txn(Txn {
                compare: take_list(from, take_compare)?,
                success: take_list(from, take_operation)?,
                failure: take_list(from, take_operation)?,
            }),
            kind => return Err(CodecError::Unknown(kind)),
        };
        match bytes.len() {
            0 => Ok(command),
            left => Err(CodecError::Long(left)),
        }
    }
}

fn put_bytes(out: &mut BytesMut, bytes: &Bytes) {
    out.put_u32(bytes.len() as u32);
    out.put_slice(bytes);
}

fn take_u8(from: &mut Bytes) -> Result<u8, CodecError> {
    from.try_get_u8().map_err(|_| CodecError::Short)
}

fn take_u64(from: &mut Bytes) -> Result<u64, CodecError> {
    from.try_get_u64().map_err(|_| CodecError::Short)
}

fn take_bytes(from: &mut Bytes) -> Result<Bytes, CodecError> {
    let length = from.try_get_u32().map_err(|_| CodecError::Short)? as usize;
    if length > from.len() {
        return Err(CodecError::Short);
    }
    Ok(from.split_to(length))
}

fn take_list<T>(
    from: &mut Bytes,
    take: fn(&mut Bytes) -> Result<T, CodecError>,
) -> Result<Vec<T>, CodecError> {
    let length = from.try_get_u32().map_err(|_| CodecError::Short)? as usize;
    // No item is shorter than 5 bytes: a length that lies allocates nothing.
    if length > from.len() / 5 {
        return Err(CodecError::Short);
    }
    let mut list = Vec::with_capacity(length);
    for _ in 0..length {
        list.push(take(from)?);
    }
    Ok(list)
}

fn take_compare(from: &mut Bytes) -> Result<Compare, CodecError> {
    Ok(match take_u8(from)? {
        MOD_REVISION => Compare::ModRevision {
            key: take_bytes(from)?,
            equals: take_u64(from)?,
        },
        EXISTS => Compare::Exists {
            key: take_bytes(from)?,
        },
        kind => return Err(CodecError::Unknown(kind)),
    })
}

fn take_operation(from: &mut Bytes) -> Result<Operation, CodecError> {
    Ok(match take_u8(from)? {
        PUT => Operation::Put {
            key: take_bytes(from)?,
            value: take_bytes(from)?,
        },
        DELETE => Operation::Delete {
            key: take_bytes(from)?,
        },
        GET => Operation::Get {
            key: take_bytes(from)?,
        },
        kind => return Err(CodecError::Unknown(kind)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_a_transaction_is_fixed() {
        let command = Command::Txn(Txn {
            compare: vec![Compare::ModRevision {
                key: "k".into(),
                equals: 7,
            }],
            success: vec![Operation::Put {
                key: "k".into(),
                value: "v".into(),
            }],
            failure: vec![Operation::Get { key: "k".into() }],
        });
        let golden: &[u8] = b"\x01\
            \0\0\0\x01\x01\0\0\0\x01k\0\0\0\0\0\0\0\x07\
            \0\0\0\x01\x01\0\0\0\x01k\0\0\0\x01v\
            \0\0\0\x01\x03\0\0\0\x01k";
        assert_eq!(command.encode(), golden);
        assert_eq!(command.encoded_bytes(), golden.len());
        assert_eq!(Command::decode(Bytes::from_static(golden)), Ok(command));
        for cut in 0..golden.len() {
            assert!(
                Command::decode(Bytes::from_static(&golden[..cut])).is_err(),
                "{cut}"
            );
        }
        let mut long = golden.to_vec();
        long.push(0);
        assert_eq!(Command::decode(long.into()), Err(CodecError::Long(1)));
        assert_eq!(
            Command::decode(Bytes::from_static(&[9])),
            Err(CodecError::Unknown(9))
        );
        let lying = Bytes::from_static(b"\x01\xff\xff\xff\xff");
        assert_eq!(Command::decode(lying), Err(CodecError::Short));
    }
}
