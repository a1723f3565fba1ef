//! Protobuf's wire format: tags, varints, length-delimited fields.

/// The value of one field as it stands on the wire.
#[derive(Debug, Clone, Copy)]
pub enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    /// No type of ours has one; it is only skipped.
    Fixed32,
}

impl<'a> Raw<'a> {
    pub fn bytes(self) -> Result<&'a [u8], String> {
        match self {
            Raw::Bytes(bytes) => Ok(bytes),
            other => Err(format!(
                "protobuf: wrong wire type for a message or text: {other:?}"
            )),
        }
    }

    pub fn text(self) -> Result<String, String> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|error| format!("protobuf: a text is not UTF-8: {error}"))
    }

    pub fn varint(self) -> Result<u64, String> {
        match self {
            Raw::Varint(value) => Ok(value),
            other => Err(format!("protobuf: wrong wire type for a number: {other:?}")),
        }
    }
}

/// Iterates over the fields of a message; stops after the first error.
pub fn fields(bytes: &[u8]) -> Fields<'_> {
    Fields { rest: bytes }
}

pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Raw<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn read(&mut self) -> Result<(u32, Raw<'a>), String> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3)
            .ok()
            .filter(|number| *number > 0)
            .ok_or("protobuf: illegal tag")?;
        let value = match tag & 7 {
            0 => Raw::Varint(self.varint()?),
            1 => Raw::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = self.varint()?;
                let length = usize::try_from(length).map_err(|_| "protobuf: unexpected EOF")?;
                Raw::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Raw::Fixed32
            }
            other => return Err(format!("protobuf: illegal wire type {other}")),
        };
        Ok((number, value))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or("protobuf: unexpected EOF")?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], String> {
        let bytes = self.take(LENGTH)?;
        bytes
            .try_into()
            .map_err(|_| "protobuf: unexpected EOF".to_owned())
    }

    fn varint(&mut self) -> Result<u64, String> {
        let (value, used) = varint(self.rest)?;
        self.rest = &self.rest[used..];
        Ok(value)
    }
}

/// A varint at the start of the bytes, and its length.
pub fn varint(bytes: &[u8]) -> Result<(u64, usize), String> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((value, index + 1));
        }
    }
    Err("protobuf: unexpected EOF or integer overflow".to_owned())
}

pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn put_number(out: &mut Vec<u8>, number: u32, value: i64) {
    put_varint(out, u64::from(number) << 3);
    // Negative numbers take ten bytes, as int32 and int64 do in protobuf.
    put_varint(out, value as u64);
}

pub fn put_double(out: &mut Vec<u8>, number: u32, value: f64) {
    put_varint(out, u64::from(number) << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

pub fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
