//! From text to syntax tree: a policy's TOML with every key known, every value of its type, and its place kept.

use std::str::FromStr;

use toml::Spanned;
use toml::de::DeTable;

use super::finding::Finding;
use super::table::{Item, Reader, Table, error_start, quoted};
use super::{DEPTH_LIMIT, DOCUMENT_LIMIT, GROUP_LIMIT, NODE_LIMIT, OnDeadline, VOTER_LIMIT, WEIGHT_LIMIT};
use crate::encoding;
use crate::jwk::{KeyError, PublicKey};
use crate::name::Name;
use crate::subject::SubjectKind;
use crate::time::Millis;

/// A policy as written.
pub(super) struct Document {
    pub(super) name: Name,
    pub(super) kinds: Vec<SubjectKind>,
    pub(super) deadline: Spanned<Millis>,
    pub(super) on_deadline: OnDeadline,
    pub(super) act_within: Millis,
    pub(super) requester_may_vote: bool,
    pub(super) exclusive: Vec<[Spanned<Name>; 2]>,
    pub(super) voters: Vec<VoterEntry>,
    pub(super) rule: RuleEntry,
}

/// A voter as written.
pub(super) struct VoterEntry {
    pub(super) name: Spanned<Name>,
    pub(super) key: Spanned<PublicKey>,
    pub(super) groups: Vec<Spanned<Name>>,
    pub(super) weight: u64,
}

/// A node of the rule as written.
pub(super) struct RuleEntry {
    /// Where the node's first word stands, in bytes.
    pub(super) start: usize,
    pub(super) form: Form,
}

/// What a node of the rule asks for, as written.
pub(super) enum Form {
    AtLeast { threshold: Spanned<u64>, group: Spanned<Name> },
    Weight { threshold: Spanned<u64>, group: Spanned<Name> },
    Percent { threshold: Spanned<u64>, group: Spanned<Name> },
    Quorum { threshold: Spanned<u64>, group: Spanned<Name> },
    NoVeto { group: Spanned<Name>, window: Spanned<Millis> },
    All(Vec<RuleEntry>),
    Any(Vec<RuleEntry>),
    NOf { threshold: Spanned<u64>, rules: Vec<RuleEntry> },
    Then(Vec<RuleEntry>),
}

/// How long after approval the action may still be done, if the policy does not say.
const DEFAULT_ACT_WITHIN: Millis = Millis::from_secs(7 * 24 * 60 * 60);

const POLICY_KEYS: [&str; 9] = [
    "name",
    "kinds",
    "deadline",
    "on_deadline",
    "act_within",
    "requester_may_vote",
    "exclusive",
    "voter",
    "rule",
];
const VOTER_KEYS: [&str; 4] = ["name", "key", "groups", "weight"];
const JWK_KEYS: [&str; 4] = ["crv", "kty", "x", "y"];
const RULE_KEYS: [&str; 12] = [
    "at_least", "weight", "percent", "quorum", "no_veto", "all", "any", "n_of", "then", "of", "for", "rules",
];

/// The words that make a node what it is, each with the word that must stand beside it.
const FORMS: [(&str, Option<&str>); 9] = [
    ("at_least", Some("of")),
    ("weight", Some("of")),
    ("percent", Some("of")),
    ("quorum", Some("of")),
    ("no_veto", Some("for")),
    ("all", None),
    ("any", None),
    ("n_of", Some("rules")),
    ("then", None),
];

impl Document {
    /// Reads `bytes`; on failure every finding, in no order.
    pub(super) fn parse(bytes: &[u8]) -> Result<Document, Vec<Finding>> {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) if text.len() <= DOCUMENT_LIMIT => text,
            Ok(_) => {
                let mut reader = Reader::new("");
                reader.report(0, format!("a policy must have at most {DOCUMENT_LIMIT} bytes"));
                return Err(reader.into_findings());
            }
            Err(error) => {
                let valid = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
                let mut reader = Reader::new(valid);
                reader.report(valid.len(), "a policy must be UTF-8");
                return Err(reader.into_findings());
            }
        };
        let mut reader = Reader::new(text);
        let root = match DeTable::parse(text) {
            Ok(root) => root,
            Err(error) => {
                reader.report(error_start(error.span()), format!("this is not TOML: {}", error.message()));
                return Err(reader.into_findings());
            }
        };
        match reader.policy(&root) {
            Some(document) if reader.is_clean() => Ok(document),
            _ => Err(reader.into_findings()),
        }
    }
}

// Each reads everything before it gives up, so that one run shows all findings.
impl<'d> Reader<'d> {
    fn policy(&mut self, root: &Spanned<DeTable<'d>>) -> Option<Document> {
        let table = self.document(root, "a policy", &POLICY_KEYS);
        let name = self.required(table, "name").and_then(|item| self.parsed::<Name>(item, "`name`"));
        let kinds = self.required(table, "kinds").and_then(|item| self.kinds(item));
        let deadline =
            self.required(table, "deadline").and_then(|item| self.parsed::<Millis>(item, "`deadline`"));
        let on_deadline = match table.item("on_deadline") {
            Some(item) => self.on_deadline(item),
            None => Some(OnDeadline::Expire),
        };
        let act_within = match table.item("act_within") {
            Some(item) => self.parsed::<Millis>(item, "`act_within`").map(Spanned::into_inner),
            None => Some(DEFAULT_ACT_WITHIN),
        };
        let requester_may_vote = match table.item("requester_may_vote") {
            Some(item) => self.flag(item, "`requester_may_vote`"),
            None => Some(false),
        };
        let exclusive = match table.item("exclusive") {
            Some(item) => self.exclusive(item),
            None => Some(Vec::new()),
        };
        let voters = self.required(table, "voter").and_then(|item| self.voters(item));
        let mut nodes = 0;
        let rule = self.required(table, "rule").and_then(|item| self.rule(item, 1, &mut nodes));
        Some(Document {
            name: name?.into_inner(),
            kinds: kinds?,
            deadline: deadline?,
            on_deadline: on_deadline?,
            act_within: act_within?,
            requester_may_vote: requester_may_vote?,
            exclusive: exclusive?,
            voters: voters?,
            rule: rule?,
        })
    }

    fn kinds(&mut self, item: &Item<'d>) -> Option<Vec<SubjectKind>> {
        let mut kinds = Vec::new();
        for item in self.filled_list(item, "`kinds`")? {
            let Some(kind) = self.parsed::<KindWord>(item, "`kinds`") else { continue };
            let kind = kind.into_inner().0;
            if kinds.contains(&kind) {
                self.report(item.span().start, format!("the kind `{kind}` is listed twice"));
            }
            kinds.push(kind);
        }
        Some(kinds)
    }

    fn on_deadline(&mut self, item: &Item<'d>) -> Option<OnDeadline> {
        match self.text(item, "`on_deadline`")? {
            "expire" => Some(OnDeadline::Expire),
            "reject" => Some(OnDeadline::Reject),
            other => {
                let message =
                    format!("`on_deadline` must be `expire` or `reject`, not `{}`", other.escape_debug());
                self.report(item.span().start, message);
                None
            }
        }
    }

    fn exclusive(&mut self, item: &Item<'d>) -> Option<Vec<[Spanned<Name>; 2]>> {
        let mut pairs = Vec::new();
        let list = self.list(item, "`exclusive`")?;
        if list.len() > GROUP_LIMIT {
            self.report(item.span().start, format!("`exclusive` must have at most {GROUP_LIMIT} pairs"));
            return None;
        }
        for item in list {
            match self.list(item, "a pair of `exclusive`")? {
                [first, second] => {
                    let first = self.parsed::<Name>(first, "`exclusive`");
                    let second = self.parsed::<Name>(second, "`exclusive`");
                    if let (Some(first), Some(second)) = (first, second) {
                        pairs.push([first, second]);
                    }
                }
                _ => self.report(item.span().start, "a pair of `exclusive` must have two groups"),
            }
        }
        Some(pairs)
    }

    fn voters(&mut self, item: &Item<'d>) -> Option<Vec<VoterEntry>> {
        let list = self.filled_list(item, "`voter`")?;
        if list.len() > VOTER_LIMIT {
            self.report(item.span().start, format!("a policy must have at most {VOTER_LIMIT} voters"));
            return None;
        }
        Some(list.iter().filter_map(|item| self.voter(item)).collect())
    }

    fn voter(&mut self, item: &Item<'d>) -> Option<VoterEntry> {
        let table = self.table(item, "a voter", &VOTER_KEYS)?;
        let name =
            self.required(table, "name").and_then(|item| self.parsed::<Name>(item, "a voter's `name`"));
        let key = self.required(table, "key").and_then(|item| self.key(item));
        let groups = self.required(table, "groups").and_then(|item| self.groups(item));
        let weight = match table.item("weight") {
            Some(item) => self.weight(item),
            None => Some(1),
        };
        Some(VoterEntry { name: name?, key: key?, groups: groups?, weight: weight? })
    }

    fn key(&mut self, item: &Item<'d>) -> Option<Spanned<PublicKey>> {
        let table = self.table(item, "a voter's `key`", &JWK_KEYS)?;
        let parts = JWK_KEYS
            .map(|part| self.required(table, part).and_then(|item| self.text(item, &format!("`{part}`"))));
        let [Some(crv), Some(kty), Some(x), Some(y)] = parts else { return None };
        match key_of_parts(crv, kty, x, y) {
            Ok(key) => Some(Spanned::new(item.span(), key)),
            Err(error) => {
                self.report(item.span().start, error.to_string());
                None
            }
        }
    }

    fn groups(&mut self, item: &Item<'d>) -> Option<Vec<Spanned<Name>>> {
        let list = self.list(item, "a voter's `groups`")?;
        if list.len() > GROUP_LIMIT {
            self.report(item.span().start, format!("a voter must be in at most {GROUP_LIMIT} groups"));
            return None;
        }
        let mut groups: Vec<Spanned<Name>> = Vec::new();
        for item in list {
            let Some(group) = self.parsed::<Name>(item, "a voter's `groups`") else { continue };
            if groups.iter().any(|known| known.get_ref() == group.get_ref()) {
                self.report(item.span().start, format!("the group `{}` is listed twice", group.get_ref()));
            }
            groups.push(group);
        }
        Some(groups)
    }

    fn weight(&mut self, item: &Item<'d>) -> Option<u64> {
        let weight = self.number(item, "a voter's `weight`")?.into_inner();
        if !(1..=WEIGHT_LIMIT).contains(&weight) {
            let message = format!("a voter's `weight` must be from 1 to {WEIGHT_LIMIT}, not {weight}");
            self.report(item.span().start, message);
            return None;
        }
        Some(weight)
    }

    fn rule(&mut self, item: &Item<'d>, depth: usize, nodes: &mut usize) -> Option<RuleEntry> {
        *nodes += 1;
        if *nodes > NODE_LIMIT {
            // One finding for all that are too many.
            if *nodes == NODE_LIMIT + 1 {
                let message = format!("a rule must have at most {NODE_LIMIT} nodes");
                self.report(item.span().start, message);
            }
            return None;
        }
        if depth > DEPTH_LIMIT {
            self.report(item.span().start, format!("a rule must be nested at most {DEPTH_LIMIT} deep"));
            return None;
        }
        let table = self.table(item, "a rule", &RULE_KEYS)?;
        let (word, companion) = self.form(table)?;
        let item = table.item(word)?;
        let what = format!("`{word}`");
        let form = match word {
            "all" => Form::All(self.rules(item, &what, depth, nodes)?),
            "any" => Form::Any(self.rules(item, &what, depth, nodes)?),
            "then" => Form::Then(self.rules(item, &what, depth, nodes)?),
            "n_of" => {
                let threshold = self.number(item, &what);
                let rules = companion.and_then(|item| self.rules(item, "`rules`", depth, nodes));
                Form::NOf { threshold: threshold?, rules: rules? }
            }
            "no_veto" => {
                let group = self.parsed::<Name>(item, &what);
                let window = companion.and_then(|item| self.parsed::<Millis>(item, "`for`"));
                Form::NoVeto { group: group?, window: window? }
            }
            _ => {
                let threshold = self.number(item, &what);
                let group = companion.and_then(|item| self.parsed::<Name>(item, "`of`"));
                let (threshold, group) = (threshold?, group?);
                match word {
                    "at_least" => Form::AtLeast { threshold, group },
                    "weight" => Form::Weight { threshold, group },
                    "percent" => Form::Percent { threshold, group },
                    _ => Form::Quorum { threshold, group },
                }
            }
        };
        Some(RuleEntry { start: table.key_start(word), form })
    }

    /// The word that says what a node asks for, and the value of the word that must stand beside it.
    fn form<'t>(&mut self, table: Table<'t, 'd>) -> Option<(&'static str, Option<&'t Item<'d>>)> {
        let heads: Vec<_> = FORMS.iter().filter(|(word, _)| table.item(word).is_some()).collect();
        let (word, companion) = match heads[..] {
            [head] => *head,
            [] => {
                let words = FORMS.map(|(word, _)| word);
                self.report(table.start(), format!("a rule needs one of {}", quoted(&words)));
                return None;
            }
            [(first, _), (second, _), ..] => {
                let message = format!("a rule must ask for one thing, not for `{first}` and `{second}`");
                let help = Some("put them into `all = [...]` or `any = [...]`".to_owned());
                self.report_with_help(table.start(), message, help);
                return None;
            }
        };
        for other in ["of", "for", "rules"] {
            match (table.item(other).is_some(), Some(other) == companion) {
                (true, false) => {
                    let message = format!("`{other}` does not belong to `{word}`");
                    self.report(table.key_start(other), message);
                }
                (false, true) => self.report(table.start(), format!("`{word}` needs `{other}`")),
                _ => {}
            }
        }
        Some((word, companion.and_then(|companion| table.item(companion))))
    }

    fn rules(
        &mut self,
        item: &Item<'d>,
        what: &str,
        depth: usize,
        nodes: &mut usize,
    ) -> Option<Vec<RuleEntry>> {
        let list = self.filled_list(item, what)?;
        let rules: Vec<_> = list.iter().filter_map(|item| self.rule(item, depth + 1, nodes)).collect();
        (rules.len() == list.len()).then_some(rules)
    }
}

fn key_of_parts(crv: &str, kty: &str, x: &str, y: &str) -> Result<PublicKey, KeyError> {
    if crv != "P-256" || kty != "EC" {
        return Err(KeyError::Kind);
    }
    let mut point = [4; 65];
    for (coordinate, text) in [(1, x), (33, y)] {
        let bytes = encoding::decode_array::<32>(text).map_err(|_| KeyError::Coordinate)?;
        point[coordinate..coordinate + 32].copy_from_slice(&bytes);
    }
    PublicKey::from_point(point)
}

/// A subject's kind, read with the kinds that there are in the message.
struct KindWord(SubjectKind);

impl FromStr for KindWord {
    type Err = String;

    fn from_str(text: &str) -> Result<KindWord, String> {
        const KINDS: [SubjectKind; 11] = [
            SubjectKind::Sign,
            SubjectKind::Record,
            SubjectKind::Webhook,
            SubjectKind::RotateKey,
            SubjectKind::DestroyKey,
            SubjectKind::ChangePolicy,
            SubjectKind::ChangeProcess,
            SubjectKind::AddContract,
            SubjectKind::AddKey,
            SubjectKind::SignSet,
            SubjectKind::ChangeValidators,
        ];
        let known = KINDS.map(SubjectKind::as_str);
        KINDS.into_iter().find(|kind| kind.as_str() == text).map(KindWord).ok_or_else(|| {
            let text: String = text.chars().take(80).collect();
            format!("`{}` is not a kind of subject; known are {}", text.escape_debug(), quoted(&known))
        })
    }
}
