//! The token that a node joins with: `<sha256 of the CA certificate, hex>.<id>.<secret>`. The first part lets the node recognise
//! the server before it shows the rest to anybody; it may also come by itself. Pure.

/// What a token says.
#[derive(Clone, PartialEq)]
pub(crate) struct Token {
    /// The digest that the CA must have.
    pub(super) pin: [u8; 32],
    /// What is shown to the server: `<id>.<secret>`.
    pub(super) bearer: String,
}

impl Token {
    /// `hash` is the CA's digest where the token does not begin with it; `sha256:` before it is fine.
    pub(crate) fn parse(text: &str, hash: Option<&str>) -> Result<Self, String> {
        let text = text.trim();
        let parts: Vec<&str> = text.split('.').collect();
        let (own, bearer) = match parts.as_slice() {
            [hash, id, secret] => (Some(*hash), [*id, *secret]),
            [id, secret] => (None, [*id, *secret]),
            _ => {
                return Err(
                    "read the join token: it is not <sha256 of the CA, hex>.<id>.<secret>".into()
                );
            }
        };
        let plain = |text: &str, length: usize| {
            text.len() == length
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        if !plain(bearer[0], 6) || !plain(bearer[1], 16) {
            return Err(
                "read the join token: <id>.<secret> is not of 6 and 16 small letters and digits"
                    .into(),
            );
        }
        let read = |hash: &str| {
            digest(hash)
                .ok_or_else(|| "read the CA's hash: it is not 64 hexadecimal digits".to_owned())
        };
        let (own, given) = (own.map(read).transpose()?, hash.map(read).transpose()?);
        let pin = match (own, given) {
            (Some(own), Some(given)) if own != given => {
                return Err(
                    "read the join token: the CA's hash in it is another than the one given".into(),
                );
            }
            (own, given) => own.or(given).ok_or(
                "read the join token: it does not begin with the CA's hash; give it by --ca-hash",
            )?,
        };
        Ok(Self { pin, bearer: bearer.join(".") })
    }
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    let hex = hex.strip_prefix("sha256:").unwrap_or(hex);
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut pin = [0; 32];
    for (byte, digits) in pin.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(pin)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEARER: &str = "abcdef.0123456789abcdef";

    #[test]
    fn the_hash_is_in_the_token_or_beside_it() {
        let hex = "0f".repeat(32);
        let whole = format!("{hex}.{BEARER}");
        for (text, hash) in [
            (whole.as_str(), None),
            (&format!(" {whole}\n"), None),
            (BEARER, Some(hex.as_str())),
            (BEARER, Some(&*format!("sha256:{hex}"))),
            (&whole, Some(&hex)),
        ] {
            let token = Token::parse(text, hash).ok().unwrap();
            assert_eq!((token.pin, token.bearer.as_str()), ([15; 32], BEARER));
        }
    }

    #[test]
    fn what_is_no_token_is_told_so() {
        let hex = "0f".repeat(32);
        let other = "0e".repeat(32);
        for (text, hash, says) in [
            ("", None, "<id>.<secret>"),
            ("guess", None, "<id>.<secret>"),
            (BEARER, None, "--ca-hash"),
            (&*format!("{hex}.{BEARER}"), Some(other.as_str()), "another"),
            (&format!("zz.{BEARER}"), None, "hexadecimal"),
            (&format!("{hex}.ABCDEF.0123456789abcdef"), None, "small letters"),
            (&format!("{hex}.abcdef.short"), None, "small letters"),
        ] {
            let why = Token::parse(text, hash).err().unwrap();
            assert!(why.contains(says) && why.contains("read the"), "{text}: {why}");
        }
    }
}
