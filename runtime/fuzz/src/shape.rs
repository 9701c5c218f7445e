//! Structure-aware changes: a config.json that uses every field, with some of its values replaced by others that are
//! wrong in an interesting way. Pure.

use serde_json::{Value, json};

/// Uses as much of the specification as possible.
pub fn base() -> Value {
    serde_json::from_str(include_str!("../seeds/full.json")).expect("it is JSON")
}

/// Each three bytes of `bytes` say: where, how, with what.
pub fn change(bytes: &[u8]) -> Value {
    let mut config = base();
    for step in bytes.chunks_exact(4).take(64) {
        let mut places = Vec::new();
        collect(&config, String::new(), &mut places);
        let at = usize::from(u16::from_le_bytes([step[0], step[1]])) % places.len();
        let place = places.swap_remove(at);
        apply(&mut config, &place, step[2], step[3]);
    }
    config
}

fn collect(value: &Value, at: String, places: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                let key = key.replace('~', "~0").replace('/', "~1");
                collect(inner, format!("{at}/{key}"), places);
            }
        }
        Value::Array(list) => {
            for (index, inner) in list.iter().enumerate() {
                collect(inner, format!("{at}/{index}"), places);
            }
        }
        _ => {}
    }
    places.push(at);
}

fn apply(config: &mut Value, place: &str, how: u8, what: u8) {
    let Some(target) = config.pointer_mut(place) else { return };
    match how % 4 {
        0 => *target = value(what),
        1 => match target {
            Value::Array(list) if list.len() < 5000 => {
                let copies = list.clone();
                list.extend(copies);
            }
            Value::Object(map) => drop(map.insert(text(what), value(what.wrapping_mul(7)))),
            Value::String(string) if string.len() < 10_000 => string.push_str(&text(what)),
            other => *other = value(what),
        },
        2 => {
            if let Value::Array(list) = target {
                list.push(value(what));
            } else if let Value::Object(map) = target {
                let key = map.keys().nth(usize::from(what) % map.len().max(1)).cloned();
                key.map(|key| map.remove(&key));
            }
        }
        _ => *target = Value::Null,
    }
}

fn value(what: u8) -> Value {
    match what % 16 {
        0 => json!(-1),
        1 => json!(u64::MAX),
        2 => json!(i64::MIN),
        3 => json!(1e300),
        4 => json!(true),
        5 => json!([]),
        6 => json!({}),
        7 => json!(0),
        8 => json!([[[[[[[[]]]]]]]]),
        9 => json!([null]),
        10 => json!(4294967296u64),
        11 => json!(65536),
        _ => json!(text(what)),
    }
}

fn text(what: u8) -> String {
    const TEXTS: [&str; 16] = [
        "", "/", "..", "/..", "\0", "\n", "a\0b", "=", "é\u{202e}", "/proc/self/fd/7", "a=b=c", "rw,ro",
        "4294967295-4294967296", "net.ipv4.x\n1", "18446744073709551616", "../../../../etc/passwd",
    ];
    TEXTS[usize::from(what) / 16].to_owned()
}
