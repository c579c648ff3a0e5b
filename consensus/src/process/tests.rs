use super::*;
use crate::json::Value;

const KEY: &str = r#"key = { kty = "EC", crv = "P-256", x = "iFhkbseFQUsllM5DBV4Trh6idrb2OSPB9dxPcFYlq8w", y = "6VvYdMH6wUYP09PWHth9mO9_QNhOF5Sxl4lpXMavDCg" }"#;

fn document(steps: &str) -> String {
    format!(
        "name = \"release-signing\"\ninput = {{ size = \"integer\", artifact = \"digest\", name = \"text\" }}\n\n\
         [[requester]]\nname = \"ci\"\n{KEY}\n\n{steps}"
    )
}

const APPROVAL: &str = "[[step]]\nname = \"approval\"\nask = \"board\"\nsubject = { kind = \"sign\", key = \"release\", \
                        name = \"{name}\", digest = \"{artifact}\", size = \"{size}\" }\n";

fn input(text: &str) -> Members {
    match Value::parse(text.as_bytes()).unwrap() {
        Value::Object(members) => members,
        _ => panic!("not an object: {text}"),
    }
}

fn subject(steps: &str, given: &str) -> Result<String, ProcessError> {
    let process = Process::parse(document(steps).as_bytes()).unwrap_or_else(|error| panic!("{error}"));
    let step = process.first_step().name.clone();
    let subject = process.derive_subject(&step, &input(given))?;
    Ok(String::from_utf8(crate::json::write(&subject)).unwrap())
}

fn digest_text() -> String {
    Digest::of(b"file").to_string()
}

#[test]
fn the_process_of_the_design_is_read() {
    let steps = format!(
        "{APPROVAL}on_rejected = \"end\"\nretries = 2\n\n[[step]]\nname = \"sign\"\nact = \"approval\"\n"
    );
    let process = Process::parse(document(&steps).as_bytes()).unwrap();
    let approval = process.first_step().name.clone();
    let sign = process.next_step(&approval).unwrap();
    assert!(matches!(&sign.action, StepAction::Act { approval: on } if *on == approval));
    assert!(process.next_step(&sign.name).is_none());
    assert_eq!(process.act_on(&approval), Some(sign));
    let inputs: Vec<_> = process.inputs().iter().map(|(name, kind)| (name.as_str(), kind.as_str())).collect();
    assert_eq!(inputs, [("size", "integer"), ("artifact", "digest"), ("name", "text")]);
    let key = process.requesters()[0].key.thumbprint();
    assert_eq!(process.requester_by_key(&key).unwrap().name.as_str(), "ci");
}

#[test]
fn an_input_is_replaced_once_and_keeps_its_type() {
    let file = digest_text();
    let given = format!(r#"{{"artifact":"{file}","name":"{{size}}","size":1000}}"#);
    assert_eq!(
        subject(APPROVAL, &given).unwrap(),
        format!(r#"{{"kind":"sign","key":"release","name":"{{size}}","digest":"{file}","size":1000}}"#)
    );
    let mixed = "[[step]]\nname = \"a\"\nask = \"board\"\nsubject = { kind = \"record\", title = \"{name} of {size}\", \
                 context = { zoo = \"{size} bytes\", ant = \"{name}\" } }\n";
    let given = format!(r#"{{"artifact":"{file}","name":"app","size":1000}}"#);
    assert_eq!(
        subject(mixed, &given).unwrap(),
        r#"{"kind":"record","title":"app of 1000","context":{"zoo":"1000 bytes","ant":"app"}}"#
    );
}

#[test]
fn what_an_input_makes_of_a_subject_is_checked() {
    let file = digest_text();
    for given in [
        format!(r#"{{"artifact":"{file}","name":"x"}}"#),
        format!(r#"{{"artifact":"{file}","name":"x","size":1,"more":1}}"#),
        format!(r#"{{"artifact":"{file}","name":"x","size":"1"}}"#),
        format!(r#"{{"artifact":"{file}","name":"x","size":-1}}"#),
        format!(r#"{{"artifact":"{file}","name":"a\u202eb","size":1}}"#),
        r#"{"artifact":"sha256:00","name":"x","size":1}"#.to_owned(),
    ] {
        assert!(subject(APPROVAL, &given).is_err(), "{given}");
    }
    // Both parts are well formed, and what they make together is not: the accent combines with what stands before.
    let joined = APPROVAL.replace("\"{name}\"", "\"e{name}\"");
    let given = format!(r#"{{"artifact":"{file}","name":"\u0301","size":1}}"#);
    assert!(matches!(subject(&joined, &given), Err(ProcessError::Subject { .. })));
}

#[test]
fn what_is_wrong_is_said_with_line_and_column() {
    let act = |on: &str| format!("[[step]]\nname = \"sign\"\nact = \"{on}\"\n");
    for (steps, expected) in [
        (String::new(), "line 1, column 1: a process needs `step`"),
        ("stap = 1\n".to_owned(), "a requester"),
        (
            format!("{APPROVAL}on_reject = \"end\"\n"),
            "line 12, column 1: unknown key `on_reject` in a step; did you mean `on_rejected`?",
        ),
        (format!("{APPROVAL}retries = 101\n"), "line 12, column 11: `retries` must be at most 100"),
        (format!("{APPROVAL}on_rejected = \"approval\"\n"), "must name a later step"),
        (format!("{APPROVAL}on_rejected = \"nowhere\"\n"), "there is no step `nowhere`"),
        (format!("{APPROVAL}{APPROVAL}"), "there are two steps `approval`"),
        (act("approval"), "`act` must name an earlier step"),
        (
            format!("{APPROVAL}{}{}", act("approval"), act("approval").replace("\"sign\"", "\"again\"")),
            "acted on already",
        ),
        (format!("{APPROVAL}on_rejected = \"sign\"\n{}", act("approval")), "though that was not approved"),
        (
            APPROVAL.replace("{size}", "{weight}"),
            "`{weight}` is no input of the process; declared are `size`, `artifact`, `name`",
        ),
        (APPROVAL.replace("{size}", "{size"), "a brace in a `subject` must be part of `{input}`"),
        (APPROVAL.replace("\"{artifact}\"", "\"{name}\""), "no valid subject of kind `sign`"),
        (APPROVAL.replace("kind = \"sign\"", "kind = \"{name}\""), "needs a `kind`"),
        (APPROVAL.replace("size =", "sise ="), "no valid subject of kind `sign`: unknown field `sise`"),
        (APPROVAL.replace("ask = \"board\"\n", ""), "a step needs `ask` or `act`"),
    ] {
        let error = Process::parse(document(&steps).as_bytes()).expect_err(&steps).to_string();
        assert!(error.contains(expected), "{steps}\ngave: {error}\nnot:  {expected}");
    }
}
