//! HPACK's Huffman code (RFC 7541, Appendix B). It is canonical: the lengths of its codes say all.

/// Bits of each octet's code; the last is the end of the string, which never occurs in one.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, // 0
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, // 16
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, // 32
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, // 48
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, // 64
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, // 80
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, // 96
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, // 112
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, // 128
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, // 144
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, // 160
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, // 176
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, // 192
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, // 208
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, // 224
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, // 240
    30,
];

const LONGEST: usize = 30;
const END: u16 = 256;

struct Tables {
    /// The code of each octet, in its low bits.
    codes: [u32; 257],
    /// What the next eight bits begin with, and how many of them it takes; 0 when it takes more than eight.
    short: [(u8, u8); 256],
    /// The first code of each length, how many there are, and where they are in `order`.
    first: [u32; LONGEST + 1],
    count: [u32; LONGEST + 1],
    start: [u16; LONGEST + 1],
    /// Octets by code.
    order: [u16; 257],
}

#[allow(clippy::cast_possible_truncation)]
const fn tables() -> Tables {
    let mut tables = Tables {
        codes: [0; 257],
        short: [(0, 0); 256],
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        start: [0; LONGEST + 1],
        order: [0; 257],
    };
    let mut code = 0_u32;
    let mut placed = 0;
    let mut length = 1;
    while length <= LONGEST {
        tables.first[length] = code;
        tables.start[length] = placed as u16;
        let mut octet = 0;
        while octet < 257 {
            if LENGTHS[octet] as usize == length {
                tables.codes[octet] = code;
                tables.order[placed] = octet as u16;
                if length <= 8 {
                    let spare = 8 - length;
                    let mut at = (code as usize) << spare;
                    let end = at + (1 << spare);
                    while at < end {
                        tables.short[at] = (octet as u8, length as u8);
                        at += 1;
                    }
                }
                tables.count[length] += 1;
                placed += 1;
                code += 1;
            }
            octet += 1;
        }
        code <<= 1;
        length += 1;
    }
    // A whole code uses up every combination of bits.
    assert!(code as u64 == 1 << (LONGEST + 1), "the code is not whole");
    tables
}

static TABLES: Tables = tables();

/// Decodes a string onto `out`; none when it is not one.
#[must_use]
pub fn decode(input: &[u8], out: &mut Vec<u8>) -> Option<()> {
    // No code is shorter than five bits.
    out.reserve(input.len() * 8 / 5);
    let mut rest = input;
    // The bits that were read and not used, at the upper end, and how many.
    let (mut window, mut bits) = (0_u64, 0_u32);
    loop {
        if bits <= 32 {
            if let Some((word, after)) = rest.split_first_chunk() {
                window |= u64::from(u32::from_be_bytes(*word)) << (32 - bits);
                bits += 32;
                rest = after;
            } else {
                for byte in std::mem::take(&mut rest) {
                    window |= u64::from(*byte) << (56 - bits);
                    bits += 8;
                }
            }
        }
        let (octet, length) = TABLES.short[(window >> 56) as usize];
        let (octet, length) = if length > 0 {
            (octet, u32::from(length))
        } else {
            match long(window) {
                Some((octet, length)) if length <= bits => (u8::try_from(octet).ok()?, length),
                _ => return padding(window, bits),
            }
        };
        if length > bits {
            return padding(window, bits);
        }
        out.push(octet);
        window <<= length;
        bits -= length;
    }
}

/// What is left is less than an octet of ones (RFC 7541 §5.2).
fn padding(window: u64, bits: u32) -> Option<()> {
    (bits < 8 && window.leading_ones() == bits).then_some(())
}

/// A code longer than eight bits.
fn long(window: u64) -> Option<(u16, u32)> {
    for length in 9..=LONGEST {
        let code = u32::try_from(window >> (64 - length)).ok()?;
        let at = code.wrapping_sub(TABLES.first[length]);
        if at < TABLES.count[length] {
            let place = usize::from(TABLES.start[length]) + usize::try_from(at).ok()?;
            let octet = TABLES.order[place];
            return (octet != END).then_some((octet, u32::try_from(length).ok()?));
        }
    }
    None
}

/// How many octets a string takes encoded.
#[must_use]
pub fn encoded_bytes(input: &[u8]) -> usize {
    let bits: usize = input
        .iter()
        .map(|octet| usize::from(LENGTHS[usize::from(*octet)]))
        .sum();
    bits.div_ceil(8)
}

/// Encodes a string onto `out`.
pub fn encode(input: &[u8], out: &mut Vec<u8>) {
    let mut window = 0_u64;
    let mut bits = 0;
    for octet in input {
        let length = LENGTHS[usize::from(*octet)];
        window = (window << length) | u64::from(TABLES.codes[usize::from(*octet)]);
        bits += length;
        while bits >= 8 {
            bits -= 8;
            out.push(((window >> bits) & 0xff) as u8);
        }
    }
    if bits > 0 {
        let padding = 8 - bits;
        let last = (window << padding) | ((1 << padding) - 1);
        out.push((last & 0xff) as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_the_standard() {
        let cases: [(&[u8], &[u8]); 3] = [
            (
                b"www.example.com",
                &[
                    0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
                ],
            ),
            (b"no-cache", &[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]),
            (b"302", &[0x64, 0x02]),
        ];
        for (plain, coded) in cases {
            let mut out = Vec::new();
            encode(plain, &mut out);
            assert_eq!(out, coded);
            assert_eq!(encoded_bytes(plain), coded.len());
            let mut back = Vec::new();
            assert_eq!(decode(coded, &mut back), Some(()));
            assert_eq!(back, plain);
        }
    }

    #[test]
    fn every_octet_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        let (mut coded, mut back) = (Vec::new(), Vec::new());
        encode(&all, &mut coded);
        assert_eq!(decode(&coded, &mut back), Some(()));
        assert_eq!(back, all);
    }

    #[test]
    fn refuses_what_is_no_string() {
        let mut out = Vec::new();
        // The end of the string in a string; padding of an octet and of zeros; half a code.
        for input in [
            &[0xff, 0xff, 0xff, 0xff][..],
            &[0x64, 0x02, 0xff],
            &[0x00],
            &[0xff, 0xc0],
        ] {
            out.clear();
            assert_eq!(decode(input, &mut out), None, "{input:x?} {out:x?}");
        }
    }
}
