//! Processes: who may ask, for what, in which steps (DESIGN section 6, "A process is TOML").
//!
//! `document` reads the TOML and says with line and column what is wrong; `template` makes a subject of a case's input.

mod document;
mod template;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::digest::Digest;
use crate::json::{Members, Value};
use crate::jwk::{PublicKey, Thumbprint};
use crate::name::{DisplayText, Name};
use crate::policy::Finding;
use crate::subject::Subject;

pub use template::Template;

/// The most bytes that a process's document may have.
pub const DOCUMENT_LIMIT: usize = 4 << 20;
/// The most requesters that a process may have.
pub const REQUESTER_LIMIT: usize = 1_024;
/// The most inputs that a process may declare.
pub const INPUT_LIMIT: usize = 64;
/// The most steps that a process may have.
pub const STEP_LIMIT: usize = 64;
/// The most `retries` that a step may have.
pub const RETRY_LIMIT: u32 = 100;

/// A named sequence of steps, and who may start it.
pub struct Process {
    document: Box<[u8]>,
    digest: Digest,
    name: Name,
    requesters: Vec<Requester>,
    inputs: Vec<(Name, InputType)>,
    steps: Vec<Step>,
}

/// One who may start cases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requester {
    /// The name by which the process knows him.
    pub name: Name,
    /// The key that he signs starts with.
    pub key: PublicKey,
}

/// What an input must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputType {
    /// A digest's 71 characters.
    Digest,
    /// Display text.
    Text,
    /// A whole number from 0 to 2^53 - 1.
    Integer,
}

/// One step of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The step's name, unique in its process.
    pub name: Name,
    /// What is done.
    pub action: StepAction,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepAction {
    /// Ask a consensus contract.
    Ask {
        /// The contract.
        contract: Name,
        /// What the subject is made of.
        template: Template,
        /// Where the case goes on after a rejection, and after the last expiry.
        on_rejected: OnRejected,
        /// How often to ask again after expiry or a void request, at most [`RETRY_LIMIT`].
        retries: u32,
    },
    /// Do what an earlier step's decision approved.
    Act {
        /// The earlier step, which asks.
        approval: Name,
    },
}

/// Where a case goes on after a rejection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnRejected {
    /// It ends.
    End,
    /// At this later step.
    Step(Name),
}

/// Why a document is no process, or an input does not fit one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProcessError {
    /// The document is wrong; at least one finding, in order of place.
    #[error("{}", lines(.0))]
    Document(Vec<Finding>),
    /// An input that is declared is not there.
    #[error("the input `{0}` is missing: the process needs it")]
    MissingInput(Name),
    /// An input that is not declared.
    #[error("the input `{}` is not one of the process: it has {known}", .name.escape_debug())]
    UnknownInput {
        /// The input's name.
        name: String,
        /// The names that are declared, in backticks.
        known: String,
    },
    /// An input of another type than declared.
    #[error("the input `{name}` must be {expected}{why}")]
    WrongInput {
        /// The input's name.
        name: Name,
        /// The declared type.
        expected: InputType,
        /// What is wrong beyond the type, or nothing.
        why: String,
    },
    /// There is no such step, or it asks nothing.
    #[error("the process has no step `{0}` that asks a contract")]
    NoSuchStep(Name),
    /// What the template gives is no subject.
    #[error("step `{step}` gives no valid subject for this input: {why}")]
    Subject {
        /// The step.
        step: Name,
        /// What is wrong.
        why: String,
    },
}

impl Process {
    /// Reads a process's TOML.
    ///
    /// # Errors
    /// [`ProcessError::Document`] with all findings, each with line and column.
    pub fn parse(document: &[u8]) -> Result<Process, ProcessError> {
        document::parse(document)
    }

    /// The process's name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The SHA-256 of the document's bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The exact bytes that the process was read from.
    pub fn document(&self) -> &[u8] {
        &self.document
    }

    /// Those who may start cases, in the order of the document.
    pub fn requesters(&self) -> &[Requester] {
        &self.requesters
    }

    /// The requester whose key has this thumbprint.
    pub fn requester_by_key(&self, key: &Thumbprint) -> Option<&Requester> {
        self.requesters.iter().find(|requester| requester.key.thumbprint() == *key)
    }

    /// The inputs that a start must have, in the order of the document.
    pub fn inputs(&self) -> &[(Name, InputType)] {
        &self.inputs
    }

    /// The steps, in order; at least one.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The step of this name.
    pub fn step(&self, name: &Name) -> Option<&Step> {
        self.steps.iter().find(|step| step.name == *name)
    }

    /// Where a case begins.
    pub fn first_step(&self) -> &Step {
        &self.steps[0]
    }

    /// The step after the one of this name; nothing if that is the last or there is no such step.
    pub fn next_step(&self, name: &Name) -> Option<&Step> {
        let place = self.steps.iter().position(|step| step.name == *name)?;
        self.steps.get(place + 1)
    }

    /// Checks that a start's input is exactly the declared inputs, in any order, each of its type.
    ///
    /// # Errors
    /// [`ProcessError`]
    pub fn check_input(&self, input: &Members) -> Result<(), ProcessError> {
        for (name, expected) in &self.inputs {
            let value =
                input.member(name.as_str()).ok_or_else(|| ProcessError::MissingInput(name.clone()))?;
            expected.check(value).map_err(|why| ProcessError::WrongInput {
                name: name.clone(),
                expected: *expected,
                why,
            })?;
        }
        let declared = |name: &str| self.inputs.iter().any(|(known, _)| known.as_str() == name);
        match input.iter().find(|(name, _)| !declared(name)) {
            None => Ok(()),
            Some((name, _)) => Err(ProcessError::UnknownInput {
                name: name.chars().take(80).collect(),
                known: match &self.inputs[..] {
                    [] => "none".into(),
                    inputs => {
                        inputs.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ")
                    }
                },
            }),
        }
    }

    /// The subject that `step` puts to its contract in a case with this input, which is checked too.
    ///
    /// # Errors
    /// [`ProcessError`]
    pub fn derive_subject(&self, step: &Name, input: &Members) -> Result<Subject, ProcessError> {
        self.check_input(input)?;
        match self.step(step).map(|step| &step.action) {
            Some(StepAction::Ask { template, .. }) => template
                .derive(input)
                .map_err(|why| ProcessError::Subject { step: step.clone(), why: why.to_string() }),
            _ => Err(ProcessError::NoSuchStep(step.clone())),
        }
    }

    /// The first step that acts on what the step `approval` asked, if there is one.
    pub fn act_on(&self, approval: &Name) -> Option<&Step> {
        let acts = |step: &&Step| matches!(&step.action, StepAction::Act { approval: on } if on == approval);
        self.steps.iter().find(acts)
    }
}

impl InputType {
    /// The word that stands in the document.
    pub const fn as_str(self) -> &'static str {
        match self {
            InputType::Digest => "digest",
            InputType::Text => "text",
            InputType::Integer => "integer",
        }
    }

    /// Checks that `value` is of this type; if not, what is wrong with it beyond that, or nothing.
    fn check(self, value: &Value) -> Result<(), String> {
        match (self, value) {
            (InputType::Digest, Value::String(text)) if text.parse::<Digest>().is_ok() => Ok(()),
            (InputType::Text, Value::String(text)) => match text.parse::<DisplayText>() {
                Ok(_) => Ok(()),
                Err(error) => Err(format!(": {error}")),
            },
            (InputType::Integer, Value::Number(0..)) => Ok(()),
            _ => Err(String::new()),
        }
    }
}

impl fmt::Display for InputType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InputType::Digest => "a digest (`sha256:` and 64 lower-case hexadecimal digits)",
            InputType::Text => "text",
            InputType::Integer => "a whole number from 0 to 2^53 - 1",
        })
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("name", &self.name)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Process {
    fn eq(&self, other: &Process) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Process {}

fn lines(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
