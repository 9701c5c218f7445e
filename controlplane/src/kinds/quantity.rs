//! Resource quantities: parse, compare, add, print canonically. Fixed point in billionths, as upstream rounds there.

use std::cmp::Ordering;
use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    DecimalSi,
    BinarySi,
    Exponent,
}

/// An amount such as `100m`, `128Mi`, `1e3`.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Form,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const NANO: i128 = 1_000_000_000;
/// Upstream caps there.
const MAX: i128 = i64::MAX as i128 * NANO;
const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

impl Quantity {
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let text = text.trim();
        let (negative, digits) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
        let (number, suffix) = digits.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(ParseError::Form);
        }
        if suffix.bytes().any(|b| !b"eEinumkKMGTP+-0123456789".contains(&b)) {
            return Err(ParseError::Form);
        }
        let (format, scale) = scale(suffix)?;
        let mut nanos = scaled(whole, fraction, scale).min(MAX);
        if negative {
            nanos = -nanos;
        }
        Ok(Self { nanos, format })
    }

    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// In whole units, rounded up.
    pub fn value(&self) -> i64 {
        let up = self.nanos.div_euclid(NANO) + i128::from(self.nanos.rem_euclid(NANO) != 0);
        up.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }

    /// In thousandths, rounded up.
    pub fn milli_value(&self) -> i64 {
        let milli = NANO / 1000;
        let up = self.nanos.div_euclid(milli) + i128::from(self.nanos.rem_euclid(milli) != 0);
        up.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }

    pub fn is_whole(&self) -> bool {
        self.nanos % NANO == 0
    }
}

impl std::ops::Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: (self.nanos + other.nanos).clamp(-MAX, MAX), format }
    }
}

impl std::ops::Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + Self { nanos: -other.nanos, ..other }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// Power of ten, or of 1024.
enum Scale {
    Ten(i32),
    Kibi(u32),
}

fn scale(suffix: &str) -> Result<(Format, Scale), ParseError> {
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Ok((Format::DecimalSi, Scale::Ten(*power)));
    }
    if let Some(power) = BINARY.iter().position(|name| *name == suffix) {
        return Ok((Format::BinarySi, Scale::Kibi(power as u32)));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(ParseError::Suffix)?;
    let power: i32 = exponent.parse().map_err(|_| ParseError::Suffix)?;
    Ok((Format::Exponent, Scale::Ten(power.clamp(-60, 60))))
}

/// The number in billionths, rounded up, saturating above [`MAX`].
fn scaled(whole: &str, fraction: &str, scale: Scale) -> i128 {
    // More digits than these cannot change the outcome beyond the cap or below rounding.
    let mut mantissa: i128 = 0;
    let mut dropped_nonzero = false;
    let mut power: i32 = 0;
    let digits = whole.bytes().map(|b| (b, false)).chain(fraction.bytes().map(|b| (b, true)));
    for (digit, is_fraction) in digits {
        if mantissa < 10_i128.pow(18) {
            mantissa = mantissa * 10 + i128::from(digit - b'0');
            power -= i32::from(is_fraction);
        } else {
            dropped_nonzero |= digit != b'0';
            power += i32::from(!is_fraction);
        }
    }
    let ten = match scale {
        Scale::Ten(ten) => ten,
        Scale::Kibi(kibi) => {
            mantissa = mantissa.saturating_mul(1024_i128.pow(kibi));
            0
        }
    };
    let exponent = (power + ten + 9).clamp(-60, 60);
    if exponent >= 0 {
        return mantissa.saturating_mul(10_i128.saturating_pow(exponent as u32));
    }
    let divisor = 10_i128.saturating_pow(exponent.unsigned_abs());
    mantissa / divisor + i128::from(mantissa % divisor != 0 || dropped_nonzero)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kib = 1024 * NANO;
        let binary =
            self.format == Format::BinarySi && self.nanos.abs() >= kib && self.nanos % NANO == 0;
        if binary {
            let mut value = self.nanos / NANO;
            let mut power = 0;
            while value % 1024 == 0 && power + 1 < BINARY.len() {
                value /= 1024;
                power += 1;
            }
            return write!(f, "{value}{}", BINARY[power]);
        }
        let (mut value, mut power) = (self.nanos, -9);
        while value != 0 && value % 1000 == 0 && power < 18 {
            value /= 1000;
            power += 3;
        }
        if value == 0 {
            power = 0;
        }
        if self.format == Format::Exponent && power != 0 {
            return write!(f, "{value}e{power}");
        }
        let suffix = DECIMAL.iter().find(|(_, p)| *p == power).map_or("", |(name, _)| name);
        write!(f, "{value}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        Quantity::parse(text).map(|q| q.to_string()).unwrap_or_else(|e| format!("{e:?}"))
    }

    #[test]
    fn prints_canonically() {
        for (text, expected) in [
            ("0", "0"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("100m", "100m"),
            ("1500m", "1500m"),
            ("128Mi", "128Mi"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("1000Ki", "1000Ki"),
            ("1Ki", "1Ki"),
            ("512e0", "512"),
            ("1e3", "1e3"),
            ("1E", "1E"),
            ("1000000", "1M"),
            ("8Gi", "8Gi"),
            ("0.1Ki", "102400m"),
            ("-1", "-1"),
            ("+2", "2"),
            ("0.0000000001", "1n"),
            (".5", "500m"),
            ("5.", "5"),
            ("7Ei", "7Ei"),
        ] {
            assert_eq!(canonical(text), expected, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_none() {
        for (text, expected) in [
            ("", "Form"),
            ("abc", "Form"),
            ("1.2.3", "Form"),
            ("1 Mi", "Form"),
            ("1mi", "Suffix"),
            ("1ki", "Suffix"),
            ("1e", "Suffix"),
            ("1Kim", "Suffix"),
            ("0x10", "Form"),
            ("-", "Form"),
        ] {
            assert_eq!(canonical(text), expected, "{text}");
        }
    }

    #[test]
    fn compares_and_rounds() {
        let q = |text| Quantity::parse(text).expect(text);
        assert!(q("500m") < q("1"));
        assert!(q("1Gi") > q("1G"));
        assert_eq!(q("1024"), q("1Ki"));
        assert_eq!(q("100m").value(), 1);
        assert_eq!(q("1500m").milli_value(), 1500);
        assert_eq!((q("100m") + q("900m")).to_string(), "1");
        assert_eq!((Quantity::ZERO + q("1Gi") + q("1Gi")).to_string(), "2Gi");
        assert_eq!(q("99999999999999999999999999999999999999Ei").value(), i64::MAX);
        assert_eq!(q("1e99").value(), i64::MAX);
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_is_stable(text in "[+-]?[0-9.]{0,40}[eEinumkKMGTP]{0,3}[-+]?[0-9]{0,12}") {
            if let Ok(parsed) = Quantity::parse(&text) {
                let again = Quantity::parse(&parsed.to_string()).expect("canonical form parses");
                proptest::prop_assert_eq!(parsed, again);
            }
        }
    }
}
