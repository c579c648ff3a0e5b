//! ECDSA-Sig-Value (RFC 3279 section 2.2.3) of a signature on P-256 or P-384: a DER sequence of two positive integers.

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;

/// The DER form of r and s, which are each half of `signature`, of at most 48 bytes.
pub(crate) fn encode(signature: &[u8]) -> Vec<u8> {
    let (r, s) = signature.split_at(signature.len() / 2);
    let mut integers = Vec::with_capacity(signature.len() + 6);
    for number in [r, s] {
        push_integer(&mut integers, number);
    }
    let mut bytes = vec![SEQUENCE, length(&integers)];
    bytes.append(&mut integers);
    bytes
}

/// r and s of a DER form, `size` bytes together; nothing if it is not the one that [`encode`] writes.
pub(crate) fn decode(bytes: &[u8], size: usize) -> Option<Vec<u8>> {
    let [SEQUENCE, _, rest @ ..] = bytes else { return None };
    let mut signature = vec![0; size];
    let (r, s) = signature.split_at_mut(size / 2);
    let rest = read_integer(rest, r)?;
    let rest = read_integer(rest, s)?;
    (rest.is_empty() && encode(&signature) == bytes).then_some(signature)
}

fn push_integer(bytes: &mut Vec<u8>, number: &[u8]) {
    let zeros = number.iter().take_while(|byte| **byte == 0).count().min(number.len() - 1);
    let digits = &number[zeros..];
    // A leading bit that is set would make the number negative.
    let sign: &[u8] = if digits[0] & 0x80 == 0 { &[] } else { &[0] };
    bytes.extend_from_slice(&[INTEGER, length(digits) + length(sign)]);
    bytes.extend_from_slice(sign);
    bytes.extend_from_slice(digits);
}

/// Reads an integer into all of `number`, and gives what comes after it.
fn read_integer<'a>(bytes: &'a [u8], number: &mut [u8]) -> Option<&'a [u8]> {
    let [INTEGER, length, rest @ ..] = bytes else { return None };
    let (digits, rest) = rest.split_at_checked(usize::from(*length))?;
    let digits = match digits {
        [0, digits @ ..] if digits.len() == number.len() => digits,
        digits => digits,
    };
    let from = number.len().checked_sub(digits.len())?;
    number[from..].copy_from_slice(digits);
    Some(rest)
}

/// The length of a part of a signature, in the one byte that it fits in.
fn length(part: &[u8]) -> u8 {
    // Two integers of at most 2 + 49 bytes.
    u8::try_from(part.len()).unwrap_or(u8::MAX)
}
