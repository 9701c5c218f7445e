//! A Pod's quality-of-service class and the numbers of quantities. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

pub fn class(pod: &Pod) -> &'static str {
    let containers = || {
        pod.spec
            .iter()
            .flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
    };
    let mut any = false;
    let mut guaranteed = true;
    for container in containers() {
        for resource in ["cpu", "memory"] {
            let limit = limit(container, resource);
            // A request that is not given equals the limit.
            let request = request(container, resource).or(limit);
            any |= limit.unwrap_or(0) > 0 || request.unwrap_or(0) > 0;
            guaranteed &= limit.is_some_and(|limit| limit > 0) && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// In thousandths (of a core, of a byte).
pub fn request(container: &Container, resource: &str) -> Option<i128> {
    let resources = container.resources.as_ref()?;
    amount(resources.requests.as_ref()?, resource)
}

/// In thousandths (of a core, of a byte).
pub fn limit(container: &Container, resource: &str) -> Option<i128> {
    let resources = container.resources.as_ref()?;
    amount(resources.limits.as_ref()?, resource)
}

fn amount(map: &BTreeMap<String, Quantity>, resource: &str) -> Option<i128> {
    map.get(resource).and_then(|quantity| millis(&quantity.0))
}

/// A quantity in thousandths, rounded up: `100m` is 100, `1` is 1000, `1Ki` is 1024000.
pub fn millis(text: &str) -> Option<i128> {
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (numerator, denominator) = scale(suffix)?;
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let parse = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i128>().ok() };
    let unit = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let value = parse(whole)?.checked_mul(unit)?.checked_add(parse(fraction)?)?;
    let scaled = value.checked_mul(numerator)?.checked_mul(1000)?;
    let divisor = unit.checked_mul(denominator)?;
    let rounded = scaled / divisor + i128::from(scaled % divisor != 0);
    Some(if negative { -rounded } else { rounded })
}

fn scale(suffix: &str) -> Option<(i128, i128)> {
    let scale = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => return exponent(suffix),
    };
    Some(scale)
}

fn exponent(suffix: &str) -> Option<(i128, i128)> {
    let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let factor = 10i128.checked_pow(power.unsigned_abs())?;
    Some(if power < 0 { (1, factor) } else { (factor, 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        let table = [
            ("100m", Some(100)),
            ("1", Some(1000)),
            ("0.5", Some(500)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("128Mi", Some(134_217_728_000)),
            ("1e3", Some(1_000_000)),
            ("1E", Some(1_000_000_000_000_000_000_000)),
            ("1n", Some(1)),
            ("-1", Some(-1000)),
            ("", None),
            ("Mi", None),
            ("1Zi", None),
            ("1.2.3", None),
        ];
        for (text, expected) in table {
            assert_eq!(millis(text), expected, "{text:?}");
        }
    }

    fn pod(resources: &str) -> Pod {
        let text =
            format!(r#"{{"spec":{{"containers":[{{"name":"a","resources":{resources}}}]}}}}"#);
        serde_json::from_str(&text).expect("a Pod")
    }

    #[test]
    fn classes() {
        assert_eq!(class(&pod("{}")), "BestEffort");
        assert_eq!(class(&pod(r#"{"requests":{"cpu":"100m"}}"#)), "Burstable");
        assert_eq!(class(&pod(r#"{"limits":{"cpu":"1","memory":"1Gi"}}"#)), "Guaranteed");
        assert_eq!(
            class(&pod(r#"{"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"0.5"}}"#)),
            "Burstable"
        );
    }
}
