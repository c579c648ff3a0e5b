//! Bundles that are changed: in one character of a value, in the order of what they show, or by a part of another.

use serde_json::Value;

/// What was changed, and what it gave.
pub type Changed = (String, Value);

/// Names of members: each object of a bundle has its own in this order.
const ORDER: &str = "key version genesis policy definition start vote_request ballots cancel decision \
    contract_transitions key_transitions history public_key format kid signature inclusion result at jws first new chain \
    header certificate event index size path height round block signatures crv kty x y";

/// Members of a bundle that lead from genesis to what it relies on.
const CHAINS: [&str; 3] = ["history", "contract_transitions", "key_transitions"];

/// A bundle with one character of each of its values changed, at another place in each.
pub fn in_one_character(bundle: &Value) -> Vec<Changed> {
    let mut pointers = Vec::new();
    leaves(bundle, String::new(), &mut pointers);
    let changed = pointers.into_iter().enumerate().map(|(turn, pointer)| {
        let mut changed = bundle.clone();
        let value = changed.pointer_mut(&pointer).expect("it was found there");
        *value = match &*value {
            Value::String(text) => Value::String(with_another(text, turn)),
            number => Value::from(number.as_u64().expect("all others are numbers") + 1),
        };
        (pointer, changed)
    });
    changed.collect()
}

/// The text of a bundle, with its members in the order of the format.
pub fn write(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| ORDER.split(' ').position(|known| known == *name));
            let members = members.into_iter().map(|(name, value)| format!("\"{name}\":{}", write(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        Value::Array(values) => format!("[{}]", values.iter().map(write).collect::<Vec<_>>().join(",")),
        value => value.to_string(),
    }
}

fn leaves(value: &Value, pointer: String, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(name, value)| leaves(value, format!("{pointer}/{name}"), found));
        }
        Value::Array(values) => {
            values
                .iter()
                .enumerate()
                .for_each(|(place, value)| leaves(value, format!("{pointer}/{place}"), found));
        }
        _ => found.push(pointer),
    }
}

/// The text with its first, its last, or one of the characters between replaced by one that may stand there too.
fn with_another(text: &str, turn: usize) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let at = match turn % 3 {
        0 => 0,
        1 => bytes.len() - 1,
        _ => turn * 7919 % bytes.len(),
    };
    bytes[at] = match bytes[at] {
        b'0'..=b'8' | b'a'..=b'e' | b'g'..=b'y' | b'A'..=b'Y' => bytes[at] + 1,
        b'f' => b'a',
        _ => b'b',
    };
    String::from_utf8(bytes).expect("ASCII stays so")
}

/// A bundle whose history or transitions are cut, swapped or padded.
pub fn in_order(bundle: &Value) -> Vec<Changed> {
    let mut changed = Vec::new();
    let mut change = |what: String, work: &dyn Fn(&mut Value)| {
        let mut bundle = bundle.clone();
        work(&mut bundle);
        changed.push((what, bundle));
    };
    for chain in CHAINS {
        let length = list(&bundle[chain]).len();
        for place in 0..length {
            change(format!("{chain} without {place}"), &|bundle| {
                drop(list_mut(&mut bundle[chain]).remove(place))
            });
            change(format!("{chain} until {place}"), &|bundle| list_mut(&mut bundle[chain]).truncate(place));
            change(format!("{chain} with {place} twice"), &|bundle| {
                let again = bundle[chain][place].clone();
                list_mut(&mut bundle[chain]).insert(place, again);
            });
            for other in place + 1..length {
                change(format!("{chain}, {place} and {other} swapped"), &|bundle| {
                    list_mut(&mut bundle[chain]).swap(place, other);
                });
            }
            if chain != "history" {
                change(format!("{chain}, messages of {place} swapped"), &|bundle| {
                    let pair = bundle[chain][place].as_object_mut().expect("a pair");
                    let (first, new) = (pair["first"].clone(), pair["new"].clone());
                    *pair = [("first".to_owned(), new), ("new".to_owned(), first)].into_iter().collect();
                });
            }
        }
    }
    for place in 0..list(&bundle["history"]).len() {
        change(format!("history {place} with a history"), &|bundle| {
            bundle["history"][place]["history"] = bundle["history"].clone();
        });
        if bundle.get("result").is_some() {
            change(format!("history {place} with a result"), &|changed| {
                changed["history"][place]["result"] = bundle["result"].clone();
            });
        }
    }
    changed
}

/// A bundle with each part of another in the place of its own, or of one in its history.
pub fn by_parts_of(other: &Value, name: &str, bundle: &Value) -> Vec<Changed> {
    let mut changed = Vec::new();
    let places = 0..list(&bundle["history"]).len();
    let pointers = places.map(|place| format!("/history/{place}")).chain([String::new()]);
    for pointer in pointers {
        for (member, its) in other.as_object().expect("a bundle") {
            let pointer = format!("{pointer}/{member}");
            if bundle.pointer(&pointer).is_some_and(|own| own != its) {
                let mut exchanged = bundle.clone();
                *exchanged.pointer_mut(&pointer).expect("it is there") = its.clone();
                changed.push((format!("{pointer} by that of `{name}`"), exchanged));
            }
        }
    }
    changed
}

/// A bundle with another as one more change of its history.
pub fn padded_by(other: &Value, name: &str, bundle: &Value) -> Vec<Changed> {
    let mut change = other.clone();
    for chain in ["history", "key_transitions"] {
        list_mut(&mut change[chain]).clear();
    }
    change.as_object_mut().expect("a bundle").remove("result");
    let padded = (0..=list(&bundle["history"]).len()).map(|place| {
        let mut padded = bundle.clone();
        list_mut(&mut padded["history"]).insert(place, change.clone());
        (format!("`{name}` as change {place}"), padded)
    });
    padded.collect()
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().expect("a list")
}

fn list_mut(value: &mut Value) -> &mut Vec<Value> {
    value.as_array_mut().expect("a list")
}
