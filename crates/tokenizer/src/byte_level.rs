//! GPT-2's alphabet: one printable character for each byte, so that a vocabulary of strings can hold any bytes.
//!
//! Bytes that are printable in Latin-1 stand for themselves; the others take the characters from U+0100 on, in order (Radford et
//! al., 2019, `bytes_to_unicode`).

const CHARS: [char; 256] = chars();
/// Code points up to the last character of the alphabet.
const N_CODES: usize = 0x144;
const BYTES: [Option<u8>; N_CODES] = bytes();

const fn is_itself(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

const fn chars() -> [char; 256] {
    let mut chars = ['\0'; 256];
    let (mut byte, mut n_shifted) = (0, 0);
    while byte < 256 {
        chars[byte] = if is_itself(byte as u8) {
            byte as u8 as char
        } else {
            n_shifted += 1;
            char::from_u32(0xff + n_shifted).expect("U+0100 to U+0143 are characters")
        };
        byte += 1;
    }
    chars
}

const fn bytes() -> [Option<u8>; N_CODES] {
    let mut bytes = [None; N_CODES];
    let mut byte = 0;
    while byte < 256 {
        bytes[CHARS[byte] as usize] = Some(byte as u8);
        byte += 1;
    }
    bytes
}

/// The character that stands for a byte.
pub(crate) fn char_of(byte: u8) -> char {
    CHARS[usize::from(byte)]
}

/// The byte that a character stands for.
pub(crate) fn byte_of(character: char) -> Option<u8> {
    BYTES.get(character as usize).copied().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character() {
        for byte in 0..=u8::MAX {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        assert_eq!((char_of(b' '), char_of(b'\n'), char_of(b'a')), ('Ġ', 'Ċ', 'a'));
        assert_eq!((byte_of(' '), byte_of('€')), (None, None));
    }
}
