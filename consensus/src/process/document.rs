//! From a process's TOML to a [`Process`], or to everything that is wrong with it.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::template::{Part, Piece};
use super::{
    DOCUMENT_LIMIT, INPUT_LIMIT, InputType, OnRejected, Process, ProcessError, REQUESTER_LIMIT, RETRY_LIMIT,
    Requester, STEP_LIMIT, Step, StepAction, Template,
};
use crate::digest::Digest;
use crate::json::{self, Members, Value};
use crate::jwk::PublicKey;
use crate::name::Name;
use crate::policy::table::{Item, Reader, error_start};
use crate::subject::SubjectKind;

const PROCESS_KEYS: [&str; 4] = ["name", "input", "requester", "step"];
const REQUESTER_KEYS: [&str; 2] = ["name", "key"];
const STEP_KEYS: [&str; 6] = ["name", "ask", "subject", "on_rejected", "retries", "act"];
const ASK_ONLY: [&str; 3] = ["subject", "on_rejected", "retries"];

/// How deep a template's tables may be nested.
const TEMPLATE_DEPTH: usize = 3;

pub(super) fn parse(bytes: &[u8]) -> Result<Process, ProcessError> {
    let refuse = |text: &str, offset: usize, message: String| {
        let mut reader = Reader::new(text);
        reader.report(offset, message);
        Err(ProcessError::Document(reader.into_findings()))
    };
    if bytes.len() > DOCUMENT_LIMIT {
        return refuse("", 0, format!("a process must have at most {DOCUMENT_LIMIT} bytes"));
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let valid = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
            return refuse(valid, valid.len(), "a process must be UTF-8".into());
        }
    };
    let root = match DeTable::parse(text) {
        Ok(root) => root,
        Err(error) => {
            return refuse(text, error_start(error.span()), format!("this is not TOML: {}", error.message()));
        }
    };
    let mut reader = Reader::new(text);
    let process = read_process(&mut reader, &root, bytes);
    let mut findings = reader.into_findings();
    match process {
        Some(process) if findings.is_empty() => Ok(process),
        _ => {
            findings.sort();
            findings.dedup();
            Err(ProcessError::Document(findings))
        }
    }
}

fn read_process<'d>(reader: &mut Reader<'d>, root: &Spanned<DeTable<'d>>, bytes: &[u8]) -> Option<Process> {
    let table = reader.document(root, "a process", &PROCESS_KEYS);
    let name = reader.required(table, "name").and_then(|item| reader.parsed::<Name>(item, "`name`"));
    let inputs = match table.item("input") {
        Some(item) => read_inputs(reader, item),
        None => Some(Vec::new()),
    };
    let requesters = reader.required(table, "requester").and_then(|item| read_requesters(reader, item));
    let steps = reader
        .required(table, "step")
        .and_then(|item| read_steps(reader, item, inputs.as_deref().unwrap_or_default()));
    Some(Process {
        document: bytes.into(),
        digest: Digest::of(bytes),
        name: name?.into_inner(),
        requesters: requesters?,
        inputs: inputs?,
        steps: steps?,
    })
}

fn read_inputs<'d>(reader: &mut Reader<'d>, item: &Item<'d>) -> Option<Vec<(Name, InputType)>> {
    let mut inputs = Vec::new();
    for (key, item) in in_order(reader, item, "`input`")? {
        let name = match key.get_ref().parse::<Name>() {
            Ok(name) => name,
            Err(error) => {
                reader.report(key.span().start, format!("an input's name: {error}"));
                continue;
            }
        };
        let what = format!("the input `{name}`");
        let declared = match reader.text(item, &what) {
            Some("digest") => InputType::Digest,
            Some("text") => InputType::Text,
            Some("integer") => InputType::Integer,
            Some(other) => {
                let message = format!("{what} must be of type `digest`, `text` or `integer`, not `{other}`");
                reader.report(item.span().start, message);
                continue;
            }
            None => continue,
        };
        inputs.push((name, declared));
    }
    if inputs.len() > INPUT_LIMIT {
        reader.report(item.span().start, format!("a process must have at most {INPUT_LIMIT} inputs"));
    }
    Some(inputs)
}

fn read_requesters<'d>(reader: &mut Reader<'d>, item: &Item<'d>) -> Option<Vec<Requester>> {
    let list = reader.filled_list(item, "`requester`")?;
    if list.len() > REQUESTER_LIMIT {
        reader.report(item.span().start, format!("a process must have at most {REQUESTER_LIMIT} requesters"));
        return None;
    }
    let mut requesters: Vec<Requester> = Vec::new();
    for item in list {
        let Some(table) = reader.table(item, "a requester", &REQUESTER_KEYS) else { continue };
        let name = reader
            .required(table, "name")
            .and_then(|item| reader.parsed::<Name>(item, "a requester's `name`"));
        let key = reader.required(table, "key").and_then(|item| read_key(reader, item));
        let (Some(name), Some(key)) = (name, key) else { continue };
        if requesters.iter().any(|known| known.name == *name.get_ref()) {
            reader.report(name.span().start, format!("the requester `{}` is listed twice", name.get_ref()));
        }
        if let Some(known) = requesters.iter().find(|known| known.key == *key.get_ref()) {
            reader.report(key.span().start, format!("this key is already that of `{}`", known.name));
        }
        requesters.push(Requester { name: name.into_inner(), key: key.into_inner() });
    }
    Some(requesters)
}

fn read_key<'d>(reader: &mut Reader<'d>, item: &Item<'d>) -> Option<Spanned<PublicKey>> {
    let mut jwk = Members::default();
    for (key, item) in in_order(reader, item, "a requester's `key`")? {
        let text = reader.text(item, &format!("`{}`", key.get_ref().escape_debug()))?;
        jwk.push(key.get_ref().to_string(), Value::String(text.into()));
    }
    match serde_json::from_slice(&json::write(&Value::Object(jwk))) {
        Ok(key) => Some(Spanned::new(item.span(), key)),
        Err(error) => {
            let message = error.to_string();
            // Line and column of the error are those of the JSON that was made of the table.
            let message = message.split(" at line ").next().unwrap_or_default();
            reader.report(item.span().start, format!("a requester's `key`: {message}"));
            None
        }
    }
}

/// A step as read, with the places of what refers to other steps.
struct StepEntry<'t, 'd> {
    step: Step,
    name: usize,
    reference: Option<&'t Item<'d>>,
}

fn read_steps<'d>(
    reader: &mut Reader<'d>,
    item: &Item<'d>,
    inputs: &[(Name, InputType)],
) -> Option<Vec<Step>> {
    let list = reader.filled_list(item, "`step`")?;
    if list.len() > STEP_LIMIT {
        reader.report(item.span().start, format!("a process must have at most {STEP_LIMIT} steps"));
        return None;
    }
    let steps: Vec<_> = list.iter().filter_map(|item| read_step(reader, item, inputs)).collect();
    if steps.len() < list.len() {
        return None;
    }
    check_references(reader, &steps);
    Some(steps.into_iter().map(|entry| entry.step).collect())
}

fn read_step<'t, 'd>(
    reader: &mut Reader<'d>,
    item: &'t Item<'d>,
    inputs: &[(Name, InputType)],
) -> Option<StepEntry<'t, 'd>> {
    let table = reader.table(item, "a step", &STEP_KEYS)?;
    let name = reader.required(table, "name").and_then(|item| reader.parsed::<Name>(item, "a step's `name`"));
    if let Some(name) = &name
        && name.get_ref().as_str() == "end"
    {
        reader.report(
            name.span().start,
            "a step cannot be named `end`: that word ends a case in `on_rejected`",
        );
    }
    let (action, reference) = match (table.item("ask"), table.item("act")) {
        (Some(ask), None) => {
            let contract = reader.parsed::<Name>(ask, "`ask`");
            let template =
                reader.required(table, "subject").and_then(|item| read_template(reader, item, inputs));
            let reference = table.item("on_rejected");
            let on_rejected = match reference {
                Some(item) => match reader.text(item, "`on_rejected`") {
                    Some("end") => Some(OnRejected::End),
                    _ => reader
                        .parsed::<Name>(item, "`on_rejected`")
                        .map(|step| OnRejected::Step(step.into_inner())),
                },
                None => Some(OnRejected::End),
            };
            let retries = match table.item("retries") {
                Some(item) => read_retries(reader, item),
                None => Some(0),
            };
            let action = StepAction::Ask {
                contract: contract?.into_inner(),
                template: template?,
                on_rejected: on_rejected?,
                retries: retries?,
            };
            (action, reference)
        }
        (None, Some(act)) => {
            for key in ASK_ONLY.into_iter().filter(|key| table.item(key).is_some()) {
                reader.report(table.key_start(key), format!("a step that acts has no `{key}`"));
            }
            (StepAction::Act { approval: reader.parsed::<Name>(act, "`act`")?.into_inner() }, Some(act))
        }
        (Some(_), Some(_)) => {
            reader.report(table.key_start("act"), "a step has either `ask` or `act`, not both");
            return None;
        }
        (None, None) => {
            reader.report(table.start(), "a step needs `ask` or `act`");
            return None;
        }
    };
    let name = name?;
    Some(StepEntry { name: name.span().start, step: Step { name: name.into_inner(), action }, reference })
}

fn read_retries<'d>(reader: &mut Reader<'d>, item: &Item<'d>) -> Option<u32> {
    let number = reader.number(item, "`retries`")?.into_inner();
    match u32::try_from(number) {
        Ok(retries) if retries <= RETRY_LIMIT => Some(retries),
        _ => {
            reader
                .report(item.span().start, format!("`retries` must be at most {RETRY_LIMIT}, not {number}"));
            None
        }
    }
}

/// Checks what steps say of each other.
fn check_references(reader: &mut Reader<'_>, steps: &[StepEntry<'_, '_>]) {
    let place = |name: &Name| steps.iter().position(|entry| entry.step.name == *name);
    let mut acted = std::collections::BTreeSet::new();
    for (here, entry) in steps.iter().enumerate() {
        let name = &entry.step.name;
        if place(name) != Some(here) {
            reader.report(entry.name, format!("there are two steps `{name}`"));
        }
        let at = entry.reference.map_or(entry.name, |item| item.span().start);
        match &entry.step.action {
            StepAction::Ask { on_rejected: OnRejected::Step(later), .. } => match place(later) {
                Some(there) if there > here => check_skipped(reader, steps, here, there, at),
                Some(_) => reader.report(
                    at,
                    format!("`on_rejected` must name a later step or `end`, and `{later}` is not later"),
                ),
                None => {
                    reader.report(at, format!("there is no step `{later}`: name a later step, or `end`"));
                }
            },
            StepAction::Ask { .. } => {}
            StepAction::Act { approval } => match place(approval).filter(|there| *there < here) {
                Some(there) => {
                    match &steps[there].step.action {
                        StepAction::Ask { template, .. } if template.kind() == SubjectKind::Record => {
                            reader.report(
                                at,
                                "a `record` needs no action: the recorded decision is the result",
                            );
                        }
                        StepAction::Ask { .. } => {}
                        StepAction::Act { .. } => {
                            reader.report(
                                at,
                                format!("step `{approval}` asks nothing: name a step with `ask`"),
                            );
                        }
                    }
                    if !acted.insert(approval) {
                        reader.report(at, format!("what step `{approval}` approved is acted on already"));
                    }
                }
                None => {
                    reader.report(at, format!("`act` must name an earlier step, and `{approval}` is none"))
                }
            },
        }
    }
}

/// After a rejection at `here` the case goes on at `there`: from there on nothing may act on what was not approved.
fn check_skipped(reader: &mut Reader<'_>, steps: &[StepEntry<'_, '_>], here: usize, there: usize, at: usize) {
    let skipped = &steps[here..there];
    for entry in &steps[there..] {
        if let StepAction::Act { approval } = &entry.step.action
            && skipped.iter().any(|skipped| skipped.step.name == *approval)
        {
            let message = format!(
                "after a rejection the case would come to step `{}`, which acts on `{approval}` though that was not \
                 approved",
                entry.step.name
            );
            reader.report(at, message);
        }
    }
}

fn read_template<'d>(
    reader: &mut Reader<'d>,
    item: &Item<'d>,
    inputs: &[(Name, InputType)],
) -> Option<Template> {
    let members = read_members(reader, item, inputs, TEMPLATE_DEPTH)?;
    let kind = members.iter().find(|(name, _)| name == "kind").map(|(_, piece)| piece);
    let kind = match kind {
        Some(Piece::Text(parts)) => match &parts[..] {
            [Part::Literal(word)] => {
                serde_json::from_slice::<SubjectKind>(&json::write(&Value::String(word.clone()))).ok()
            }
            _ => None,
        },
        _ => None,
    };
    let Some(kind) = kind else {
        reader.report(item.span().start, "`subject` needs a `kind` that is one of those known, and no input");
        return None;
    };
    let template = Template { kind, members };
    if let Err(error) = template.sample(inputs) {
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        reader.report(item.span().start, format!("this gives no valid subject of kind `{kind}`: {message}"));
        return None;
    }
    Some(template)
}

fn read_members<'d>(
    reader: &mut Reader<'d>,
    item: &Item<'d>,
    inputs: &[(Name, InputType)],
    depth: usize,
) -> Option<Vec<(String, Piece)>> {
    if depth == 0 {
        reader.report(item.span().start, "the tables of a `subject` are nested too deep");
        return None;
    }
    let mut members = Vec::new();
    let mut complete = true;
    for (key, item) in in_order(reader, item, "`subject`")? {
        let name = key.get_ref().to_string();
        let piece = match item.get_ref() {
            DeValue::String(text) => read_text(reader, text, item.span().start, inputs).map(Piece::Text),
            DeValue::Table(_) => read_members(reader, item, inputs, depth - 1).map(Piece::Table),
            _ => reader
                .number(item, &format!("`{}`", name.escape_debug()))
                .and_then(|number| i64::try_from(number.into_inner()).ok())
                .map(Piece::Number),
        };
        match piece {
            Some(piece) => members.push((name, piece)),
            None => complete = false,
        }
    }
    complete.then_some(members)
}

/// Splits a text at its inputs.
fn read_text(
    reader: &mut Reader<'_>,
    text: &str,
    at: usize,
    inputs: &[(Name, InputType)],
) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(brace) = rest.find(['{', '}']) {
        let (literal, tail) = rest.split_at(brace);
        let input = tail.strip_prefix('{').and_then(|tail| tail.split_once('}'));
        let Some((input, after)) = input else {
            reader.report(at, "a brace in a `subject` must be part of `{input}`");
            return None;
        };
        let Some((name, _)) = inputs.iter().find(|(name, _)| name.as_str() == input) else {
            let known: Vec<&str> = inputs.iter().map(|(name, _)| name.as_str()).collect();
            let input: String = input.chars().take(80).collect();
            reader.report_with_help(
                at,
                format!("`{{{}}}` is no input of the process", input.escape_debug()),
                Some(match &known[..] {
                    [] => "the process declares no `input`".into(),
                    known => format!("declared are {}", crate::policy::table::quoted(known)),
                }),
            );
            return None;
        };
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        parts.push(Part::Input(name.clone()));
        rest = after;
    }
    if !rest.is_empty() || parts.is_empty() {
        parts.push(Part::Literal(rest.into()));
    }
    Some(parts)
}

type Entry<'t, 'd> = (&'t Spanned<toml::de::DeString<'d>>, &'t Item<'d>);

/// A table's entries in the order of the document.
fn in_order<'t, 'd>(reader: &mut Reader<'d>, item: &'t Item<'d>, what: &str) -> Option<Vec<Entry<'t, 'd>>> {
    let Some(table) = item.get_ref().as_table() else {
        reader.report(item.span().start, format!("{what} must be a table"));
        return None;
    };
    let mut entries: Vec<Entry<'t, 'd>> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    Some(entries)
}
