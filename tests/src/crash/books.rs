//! What the campaign writes down beside the system: the receipts that people got, and the events that there were.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use assent_consensus::contract::Contract;
use assent_consensus::contract::consensus::ConsensusContracts;
use assent_consensus::contract::process::ProcessContracts;
use assent_consensus::event::CaseOutcome;
use assent_consensus::jws::Signed;
use assent_consensus::message::Receipt as ReceiptMessage;
use assent_consensus::name::Name;
use assent_ledger::{Ledger, LedgerReader};

use crate::deployment::{Case, Deployment, Desk, Receipt, name};

#[derive(Default)]
pub(super) struct Books {
    /// With the trial that they are of.
    receipts: Vec<(u64, Receipt)>,
    /// Up to which height each ledger's events were read.
    read: BTreeMap<Name, u64>,
    /// How many events of one kind there were about one case or request.
    events: BTreeMap<(String, String), u64>,
}

impl Books {
    pub(super) fn keep(&mut self, seed: u64, receipts: &[Receipt]) {
        self.receipts.extend(receipts.iter().map(|receipt| (seed, receipt.clone())));
    }

    /// How many receipts there are.
    pub(super) fn receipts(&self) -> usize {
        self.receipts.len()
    }

    /// Reads the events that are new.
    pub(super) async fn read_events(&mut self, desk: &Desk) -> Result<()> {
        for chain in [name("process"), name("consensus")] {
            let read = self.read.entry(chain.clone()).or_default();
            loop {
                let list = desk.client().events(&chain, *read, Duration::ZERO).await?;
                if list.height == *read {
                    break;
                }
                *read = list.height;
                for event in list.events {
                    let member = |name: &str| event.event[name].as_str().unwrap_or_default().to_owned();
                    let about =
                        if member("type") == "case-ended" { member("case") } else { member("request") };
                    *self.events.entry((member("type"), about)).or_default() += 1;
                }
            }
        }
        Ok(())
    }

    /// Exactly one decision, and exactly one action if it was approved.
    pub(super) fn check_once(&self, case: &Case, outcome: CaseOutcome) -> Result<()> {
        let request = case.request.to_string();
        let actions = u64::from(outcome == CaseOutcome::Done);
        for (kind, about, expected) in [
            ("request-called", &request, 1),
            ("request-open", &request, 1),
            ("decision-due", &request, 1),
            ("decision-recorded", &request, 1),
            ("result-recorded", &request, actions),
            ("case-ended", &case.name.to_string(), 1),
        ] {
            let found = self.events.get(&(kind.to_owned(), about.clone())).copied().unwrap_or_default();
            ensure!(found == expected, "{found} times `{kind}` instead of {expected}");
        }
        Ok(())
    }

    /// Stops the daemons, and looks into their files: each ledger replays, each acknowledged transaction is where it was
    /// said to be, the audit log is whole. Returns which trials lost something.
    pub(super) fn close(&self, deployment: &mut Deployment) -> Result<BTreeMap<u64, String>> {
        // A trial that failed may have left one of them dead.
        for daemon in [Deployment::node, Deployment::kms] {
            if daemon(deployment).id().is_some() {
                daemon(deployment).stop()?;
            }
        }
        let audit = deployment.assent_kms(&["audit", "verify"])?;
        ensure!(audit.status.success(), "the audit log: {}", String::from_utf8_lossy(&audit.stderr));
        deployment.check_ledgers()?;
        let mut ledgers = BTreeMap::new();
        for chain in ["process", "consensus"] {
            ledgers.insert(name(chain), open(deployment, chain)?);
        }
        let mut lost = BTreeMap::new();
        for (seed, receipt) in &self.receipts {
            if let Err(why) = check_receipt(deployment.desk(), &ledgers[&receipt.chain].reader(), receipt) {
                lost.insert(*seed, format!("{why:#}"));
            }
        }
        Ok(lost)
    }
}

fn open(deployment: &Deployment, chain: &str) -> Result<Ledger> {
    let genesis =
        Arc::new(assent_consensus::genesis::Genesis::parse(&std::fs::read(deployment.genesis_file())?)?);
    let validators = genesis.chain(&name(chain)).context("genesis has the ledger")?.validators.clone();
    let contract: Arc<dyn Contract> = match chain {
        "consensus" => Arc::new(ConsensusContracts::new(genesis.clone(), name(chain))),
        _ => Arc::new(ProcessContracts::new(genesis.clone(), name(chain))),
    };
    let path = deployment.directory().join(format!("node/data/{chain}.ledger"));
    Ok(Ledger::open(&path, genesis.id(), name(chain), validators, contract)?)
}

fn check_receipt(desk: &Desk, ledger: &LedgerReader, Receipt { chain, submitted }: &Receipt) -> Result<()> {
    let transaction = submitted.transaction;
    let (_, height, index) = ledger
        .transaction(transaction)?
        .with_context(|| format!("{transaction} was acknowledged and is lost"))?;
    let said = (submitted.height, submitted.index);
    ensure!(said == (height, index), "{transaction} is at {:?}, not at {said:?}", (height, index));
    let receipt = submitted.receipt.as_ref().context("an acknowledgement without a receipt")?;
    let validators = &desk.genesis().chain(chain).context("genesis has the ledger")?.validators;
    let key = validators.key(receipt.kid()).context("a receipt by a stranger")?;
    let receipt = Signed::<ReceiptMessage>::from_jws(receipt.clone())?.verify(key)?;
    let signed = (receipt.transaction, receipt.height.get(), receipt.index.get());
    ensure!(signed == (transaction, height, index), "the receipt says {signed:?}");
    Ok(())
}
