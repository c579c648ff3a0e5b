//! What the KMS tells a scraper: `GET /metrics` on a socket of its own, in the text format of Prometheus, version 0.0.4.
//!
//! Each part counts for itself, and is asked at each scrape. No label has a value from outside: purposes, reasons and states
//! are words of this program, and devices, keys and logs are those of its configuration and its genesis.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use assent_consensus::name::Name;
use assent_consensus::time::UnixMillis;
use assent_edge::tls::Server;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, EncodeMetric as _, NoLabelSet, prometheus_text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::task::spawn_blocking;

use crate::device::{Devices, POOL_QUEUE, PoolUse};
use crate::duty::Engine;
use crate::pins::Pins;
use crate::reload::Reloads;
use crate::signing::{Clock, KeyName, Purpose, Signing};
use crate::store::{KeyRow, Store, WRITER_QUEUE, Writer};
use crate::tls_expiry::endings;
use crate::tls_socket::TlsConfig;

/// The content type of the text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// What stands before the name of each metric.
const PREFIX: &str = "assent_kms";

/// The parts of a running KMS that are asked at each scrape.
pub struct Watched {
    /// When the KMS started.
    pub started: UnixMillis,
    /// By which clock keys are in force.
    pub clock: Clock,
    /// Keys, trusted headers.
    pub pins: Pins,
    /// What waits to be written.
    pub writer: Arc<Writer>,
    /// How far log and epoch are.
    pub reader: Mutex<Store>,
    /// The devices' pools.
    pub devices: Arc<Devices>,
    /// What was signed.
    pub signing: Arc<Signing>,
    /// What was refused.
    pub engine: Arc<Engine>,
    /// What came of reading the configuration again.
    pub reloads: Arc<Reloads>,
    /// What is shown on the port for other machines, if there is one.
    pub tls: Option<(TlsConfig, Server)>,
}

/// The call of the socket for metrics. Who may connect is for whoever listens.
pub fn router(watched: Watched) -> Router {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(watched));
    Router::new().route("/metrics", get(metrics)).fallback(unknown).with_state(Arc::new(registry))
}

async fn metrics(State(registry): State<Arc<Registry>>) -> Response {
    // It reads the database, and waits for locks.
    let written = spawn_blocking(move || {
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).map(|()| text)
    });
    match written.await {
        Ok(Ok(text)) => ([(CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Ok(Err(_)) | Err(_) => {
            tracing::error!("the metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn unknown() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "this socket takes `GET /metrics`\n")
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}

impl Collector for Watched {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let version = [([("version", env!("CARGO_PKG_VERSION"))], 1_u64)];
        page.gauges("build_info", "The program, as a label; always 1", version)?;
        page.gauge(
            "start_time_seconds",
            "When the KMS started, since the Unix epoch",
            seconds(self.started),
        )?;
        self.encode_reloads(&mut page)?;
        self.encode_duties(&mut page)?;
        self.encode_devices(&mut page)?;
        self.encode_database(&mut page)?;
        self.encode_pins(&mut page)?;
        self.encode_tls(&mut page)
    }
}

impl Watched {
    fn encode_reloads(&self, page: &mut Page<'_>) -> fmt::Result {
        let failed = u64::from(self.reloads.has_failed());
        page.gauge(
            "configuration_reload_failed",
            "Whether the configuration that was read last is not in force",
            failed,
        )?;
        let outcomes = self.reloads.outcomes().map(|(outcome, count)| ([("outcome", outcome)], count));
        page.counters("configuration_reloads", "How often the configuration was read again", outcomes)
    }

    fn encode_duties(&self, page: &mut Page<'_>) -> fmt::Result {
        let made = self.signing.signatures();
        let made = Purpose::ALL.map(|purpose| {
            ([("purpose", purpose.as_str())], made.get(&purpose).copied().unwrap_or_default())
        });
        page.counters("signatures", "Signatures that the devices made, by what they are for", made)?;
        let refused =
            self.engine.refused().into_iter().map(|((purpose, reason), count)| {
                ([("purpose", purpose.as_str()), ("reason", reason)], count)
            });
        page.counters("refusals", "Duties that were refused, by what they are for and why", refused)?;
        let turned_away =
            self.engine.turned_away().into_iter().map(|(code, count)| ([("code", code)], count));
        page.counters("batch_refusals", "Batches of duties of which nothing was done, by why", turned_away)?;
        page.gauge("batches_in_progress", "Batches of duties that are being done", self.engine.under_way())
    }

    fn encode_devices(&self, page: &mut Page<'_>) -> fmt::Result {
        let absent: Vec<_> = self.devices.absent().collect();
        let present = self.devices.iter().map(|(name, _)| (device(name), u64::from(!absent.contains(&name))));
        page.gauges(
            "device_present",
            "Whether the device answered rightly since the start, and is used",
            present,
        )?;
        let uses: Vec<_> = self.devices.iter().map(|(name, pool)| (name, pool.in_use())).collect();
        let jobs = format!("Jobs that wait for a session; {POOL_QUEUE} at most");
        let mut of_pools = |name, help: &str, value: fn(&PoolUse) -> usize| {
            page.gauges(name, help, uses.iter().map(|(name, pool)| (device(name), value(pool))))
        };
        of_pools("device_sessions", "Sessions that the configuration allows", |pool| pool.sessions)?;
        of_pools("device_sessions_open", "Sessions that are open", |pool| pool.open)?;
        of_pools("device_sessions_busy", "Sessions that are doing something", |pool| pool.busy)?;
        of_pools("device_calls_hanging", "Calls that were given up and have not returned", |pool| {
            pool.hanging
        })?;
        of_pools("device_queue_length", &jobs, |pool| pool.waiting)?;
        let lost = uses.iter().map(|(name, pool)| (device(name), pool.lost));
        page.counters("device_sessions_lost", "Sessions that were lost in the midst of a job", lost)?;
        let errors = self.devices.iter().flat_map(|(name, pool)| {
            let label = ("device", name.as_str());
            pool.errors().into_iter().map(move |(code, count)| ([label, ("code", code)], count))
        });
        page.counters("device_errors", "Jobs that failed, by why", errors)?;
        page.histograms(
            "device_signature_seconds",
            "How long the device took for a signature, without the wait for a session",
            self.devices.iter().map(|(name, pool)| (device(name), pool.signature_seconds())),
        )
    }

    fn encode_database(&self, page: &mut Page<'_>) -> fmt::Result {
        let (works, results) = self.writer.waiting();
        let waiting = [([("kind", "work")], works), ([("kind", "result")], results)];
        let help = format!(
            "What waits to be written: pieces of work, and results of signatures that are out; {WRITER_QUEUE} of each at most"
        );
        page.gauges("writer_queue_length", &help, waiting)?;
        let read = {
            let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
            reader.head().and_then(|head| Ok((head.number, reader.identity()?.epoch)))
        };
        match read {
            Ok((entries, epoch)) => {
                page.counters(
                    "audit_entries",
                    "Entries of the audit log, those of former runs too",
                    once(entries),
                )?;
                page.gauge("epoch", "How often the mark on the devices was advanced", epoch)
            }
            // What cannot be read is missing, and no other number stands in its place.
            Err(error) => {
                tracing::error!(%error, "the database cannot be read for the metrics");
                Ok(())
            }
        }
    }

    fn encode_pins(&self, page: &mut Page<'_>) -> fmt::Result {
        let is_pinned = u64::from(self.pins.genesis().is_some());
        page.gauge("pinned", "Whether the KMS has a deployment", is_pinned)?;
        let trusted = self.pins.trusted().chains;
        let heights = trusted.iter().map(|of| ([("log", of.chain.as_str())], of.trusted.height.get()));
        page.gauges("trusted_height", "The height of the last header of each log that is trusted", heights)?;
        let (now, keys) = ((self.clock)(), self.pins.keys());
        let states = keys.iter().map(|row| {
            let more = [("device", row.device.as_str()), ("state", self.pins.state_at(row, now).as_str())];
            ((key(row), more), 1_u64)
        });
        page.gauges(
            "key_info",
            "Each version of a key, its device and its state, as labels; always 1",
            states,
        )?;
        let ends = keys.iter().filter_map(|row| Some((key(row), seconds(self.pins.ends(row)?))));
        page.gauges(
            "key_deactivation_timestamp_seconds",
            "When a version of a key is deactivated, since the Unix epoch, if that is settled",
            ends,
        )?;
        let left =
            keys.iter().filter_map(|row| Some((key(row), row.limits.uses?.get().saturating_sub(row.used))));
        page.gauges(
            "key_uses_left",
            "How often a version of a key may still be used, if that is limited",
            left,
        )
    }

    fn encode_tls(&self, page: &mut Page<'_>) -> fmt::Result {
        let looked = self.tls.iter().map(|(tls, server)| (tls, server.look()));
        // A list that cannot be read is missing.
        let ends = looked.flat_map(|(tls, (own, revoked))| {
            endings(tls, &own, revoked.ok().flatten().as_ref())
                .into_iter()
                .map(|ending| ([("key", ending.key)], seconds(ending.validity.until())))
        });
        page.gauges(
            "tls_expiry_timestamp_seconds",
            "When what `[tls]` names under this key is good no more, since the Unix epoch",
            ends,
        )
    }
}

fn device(name: &Name) -> [(&'static str, &str); 1] {
    [("device", name.as_str())]
}

fn key(row: &KeyRow) -> [(&'static str, String); 3] {
    let (kind, name) = match &row.name {
        KeyName::Contract(name) => ("contract", name),
        KeyName::Operational(name) => ("operational", name),
    };
    [("kind", kind.to_owned()), ("key", name.to_string()), ("version", row.version.to_string())]
}

/// Without labels.
fn once<V>(value: V) -> [([(&'static str, &'static str); 0], V); 1] {
    [([], value)]
}

fn seconds(moment: UnixMillis) -> f64 {
    moment.get() as f64 / 1_000.0
}

/// The answer to one scrape, as far as it is written.
struct Page<'e>(DescriptorEncoder<'e>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.gauges(name, help, once(value))
    }

    fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        series
            .into_iter()
            .try_for_each(|(labels, value)| encoder.encode_family(&labels)?.encode_gauge(&value))
    }

    /// `name` is without `_total`.
    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        series.into_iter().try_for_each(|(labels, value)| {
            encoder.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&value, None)
        })
    }

    fn histograms<'h, L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (L, &'h Histogram)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        series
            .into_iter()
            .try_for_each(|(labels, histogram)| histogram.encode(encoder.encode_family(&labels)?))
    }
}
