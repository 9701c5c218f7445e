//! Resource quantities as integers: `100m`, `1.5`, `128Mi`, `2e3`. Pure.

/// Thousandths, rounded up; what cannot be read or does not fit is None.
pub(super) fn millis(text: &str) -> Option<i64> {
    parse(text, 1000)
}

/// Whole units, rounded up.
pub(super) fn units(text: &str) -> Option<i64> {
    parse(text, 1)
}

fn parse(text: &str, scale: i128) -> Option<i64> {
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (numerator, denominator) = factor(suffix)?;
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.len() + fraction.len() == 0 || whole.len() + fraction.len() > 18 {
        return None;
    }
    let value: i128 = format!("{whole}{fraction}").parse().ok()?;
    let below =
        10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?.checked_mul(denominator)?;
    let above = value.checked_mul(numerator)?.checked_mul(scale)?;
    let rounded = if negative { -(above / below) } else { (above + below - 1) / below };
    i64::try_from(rounded).ok()
}

/// What a suffix multiplies by, as a fraction.
fn factor(suffix: &str) -> Option<(i128, i128)> {
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if let Some(power) = binary.iter().position(|b| *b == suffix) {
        return Some((1 << (10 * (power + 1)), 1));
    }
    let whole = ["", "k", "M", "G", "T", "P", "E"];
    if let Some(power) = whole.iter().position(|w| *w == suffix) {
        return Some((1000_i128.pow(u32::try_from(power).ok()?), 1));
    }
    let parts = ["m", "u", "n"];
    if let Some(power) = parts.iter().position(|p| *p == suffix) {
        return Some((1, 1000_i128.pow(u32::try_from(power + 1).ok()?)));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
    Some(if exponent < 0 { (1, power) } else { (power, 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_the_api_writes_them() {
        let cases = [
            ("100m", Some(100), Some(1)),
            ("1.5", Some(1500), Some(2)),
            ("128Mi", None, Some(134_217_728)),
            ("2e3", Some(2_000_000), Some(2000)),
            ("1E", None, Some(1_000_000_000_000_000_000)),
            ("0", Some(0), Some(0)),
            ("100u", Some(1), Some(1)),
            ("", None, None),
            ("abc", None, None),
            ("1Qi", None, None),
            ("99999999999E", None, None),
        ];
        for (text, thousandths, whole) in cases {
            if thousandths.is_some() || whole.is_none() {
                assert_eq!(millis(text), thousandths, "{text}");
            }
            assert_eq!(units(text), whole, "{text}");
        }
    }
}
