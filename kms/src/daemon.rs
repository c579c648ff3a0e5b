//! `assent-kms init` and `serve`: the parts put together, in an order in which nothing is promised before it can be kept.
//!
//! ```text
//! directory, lock, file ─▶ token (one PIN try) ─▶ epoch ─▶ keys compared ─▶ started (log), epoch advanced ─▶ sockets
//! ```

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use assent_consensus::json::Integer;
use assent_consensus::name::Name;
use assent_consensus::time::UnixMillis;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::admin::{self, Admin};
use crate::audit::Entry;
use crate::changes::ApprovedChanges;
use crate::config::{Config, DeviceConfig, DriverConfig};
use crate::device::pkcs11::Pkcs11Driver;
use crate::device::yubihsm::{LogKeeper, YubiHsmDriver, YubiHsmSettings};
use crate::device::{DeviceError, Devices, Driver, EpochMark, Pool};
use crate::device_log::DeviceLog;
use crate::duty::{self, Engine};
use crate::epoch::{self, EpochError, Keeping};
use crate::life;
use crate::metrics::{self, Watched};
use crate::pin::{PinError, PinSource};
use crate::pins::Pins;
use crate::presence::{self, Difference};
use crate::reload::{InForce, Reload, Reloads};
use crate::signing::{Clock, EpochBell, Signing};
use crate::sockets::{Allowed, Door, Socket, SocketError};
use crate::store::{self, DirectoryLock, KeyRow, Store, StoreError, Writer};
use crate::tls_expiry;
use crate::tls_socket::{TlsSocket, TlsSocketError};

/// How long what is under way may take when the daemon stops.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Why the daemon does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The PIN.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The epoch.
    #[error(transparent)]
    Epoch(#[from] EpochError),
    /// A socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The port for other machines.
    #[error(transparent)]
    Tls(#[from] TlsSocketError),
    /// The configuration names none.
    #[error("the configuration has no device")]
    NoDevice,
    /// `init` was cut short.
    #[error("this KMS was never finished: run `assent-kms init` again")]
    Unfinished,
    /// The system.
    #[error("the system failed: {0}")]
    System(#[from] std::io::Error),
}

/// The system's clock.
pub fn system_clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        UnixMillis::new(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    })
}

/// Where the PIN of a configured device is.
///
/// # Errors
/// [`PinError::NoSource`]
pub fn pin(config: &Config, device: &DeviceConfig) -> Result<PinSource, PinError> {
    PinSource::new(&device.name, device.pin_file.as_deref(), &config.state_directory)
}

/// The driver of a configured device. `keeper` keeps what a device says in a log of its own; without one that log is left
/// alone, as by a command that runs beside the daemon.
///
/// # Errors
/// [`DaemonError::Pin`], [`DaemonError::Device`]
pub fn driver(
    config: &Config,
    device: &DeviceConfig,
    keeper: Option<Arc<dyn LogKeeper>>,
) -> Result<Arc<dyn Driver>, DaemonError> {
    let pin = pin(config, device)?;
    Ok(match &device.driver {
        DriverConfig::Pkcs11 { .. } => Arc::new(pkcs11_driver(device, pin)?),
        DriverConfig::YubiHsm { connector, serial, authentication_key, wrap_key, log_poll } => {
            let settings = YubiHsmSettings {
                connector: connector.clone(),
                serial: serial.clone(),
                authentication_key: *authentication_key,
                wrap_key: *wrap_key,
                call_timeout: Duration::from_millis(device.call_timeout.get()),
                log_poll: Duration::from_millis(log_poll.get()),
            };
            let driver = YubiHsmDriver::new(settings, pin)?;
            if let Some(keeper) = keeper {
                driver.keep_log(keeper)?;
            }
            Arc::new(driver)
        }
    })
}

/// How many answers of a YubiHSM a piece of work may wait for until the pool gives it up: the driver gives up each by itself.
const YUBIHSM_ANSWERS: u32 = 6;

/// The driver of a configured PKCS#11 token.
///
/// # Errors
/// [`DaemonError::Device`]
pub fn pkcs11_driver(device: &DeviceConfig, pin: PinSource) -> Result<Pkcs11Driver, DaemonError> {
    let DriverConfig::Pkcs11 { module, token, profile } = &device.driver else {
        return Err(DeviceError::Setup(format!("the device `{}` is no PKCS#11 token", device.name)).into());
    };
    Ok(Pkcs11Driver::new(module, token, pin, profile.clone())?)
}

/// A pool for each configured device, with as many sessions as `sessions` says.
pub(crate) fn devices(
    config: &Config,
    sessions: impl Fn(&DeviceConfig) -> usize,
    keeper: impl Fn(&DeviceConfig) -> Option<Arc<dyn LogKeeper>>,
) -> Result<Devices, DaemonError> {
    let pool = |device: &DeviceConfig| -> Result<(Name, Pool), DaemonError> {
        let limit = Duration::from_millis(device.call_timeout.get());
        let limit = match device.driver {
            DriverConfig::Pkcs11 { .. } => limit,
            DriverConfig::YubiHsm { .. } => limit * YUBIHSM_ANSWERS,
        };
        let driver = driver(config, device, keeper(device))?;
        Ok((device.name.clone(), Pool::start(driver, sessions(device), limit)?))
    };
    let mut pools = config.devices.iter().map(pool);
    let (name, first) = pools.next().ok_or(DaemonError::NoDevice)??;
    let mut devices = Devices::new(name, first);
    for other in pools {
        let (name, pool) = other?;
        devices.push(name, pool);
    }
    Ok(devices)
}

/// Makes a KMS: state directory, database, and the first mark on the token. One that was cut short is finished.
///
/// # Errors
/// [`DaemonError`]; [`StoreError::Exists`] if it was made before.
pub async fn init(config: &Config) -> Result<[u8; 16], DaemonError> {
    let directory = &config.state_directory;
    store::make_directory(directory)?;
    let _lock = DirectoryLock::take(directory)?;
    let clock = system_clock();
    match Store::open_reader(directory) {
        Err(StoreError::Uninitialised { .. }) => {
            // Before anything is written: a token that cannot be used is found first.
            for device in &config.devices {
                let driver = driver(config, device, None)?;
                let tried = tokio::task::spawn_blocking(move || driver.connect().map(drop));
                tried.await.map_err(|error| std::io::Error::other(error.to_string()))??;
            }
            Store::create(directory, clock())?;
        }
        Ok(store) if store.identity()?.epoch > 0 => {
            return Err(StoreError::Exists { path: store.path().to_owned() }.into());
        }
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    let reader = Store::open_reader(directory)?;
    let identity = reader.identity()?;
    let writer = Writer::start(directory, Pins::load(&reader)?)?;
    let devices = devices(config, |_| 1, |_| None)?;
    let (epoch, absent) = agree(&devices, &identity, &reader).await?;
    if let Some((_, error)) = absent.into_iter().next() {
        return Err(error.into());
    }
    epoch::advance(&writer, &devices, identity.instance, epoch).await?;
    Ok(identity.instance)
}

/// The epoch on which all devices agree with the database, and the devices that do not answer, each with the reason; these
/// are absent from then on. One that is behind, because the last step was cut short or because it is new and holds no key
/// yet, is brought up to it.
///
/// # Errors
/// [`DaemonError`]; that of a device only if none answers, or if its configuration is wrong.
async fn agree(
    devices: &Devices,
    identity: &store::Identity,
    store: &Store,
) -> Result<(u64, Vec<(Name, DeviceError)>), DaemonError> {
    let (identity, rows) = (*identity, store.keys()?);
    let (mut epochs, mut absent) = (Vec::new(), Vec::new());
    for (name, pool) in devices.iter() {
        let (behind, holds_keys) = (store.behind(name)?, epoch::holds_keys(name, &rows));
        match epoch::agreed_with(pool, identity, behind, holds_keys).await {
            Ok(epoch) => epochs.push((pool, epoch)),
            Err(EpochError::Device(error @ (DeviceError::Setup(_) | DeviceError::Failed(_)))) => {
                return Err(error.into());
            }
            Err(EpochError::Device(error)) => absent.push((name.clone(), error)),
            Err(error) => return Err(error.into()),
        }
    }
    if epochs.is_empty()
        && let Some((_, error)) = absent.pop()
    {
        return Err(error.into());
    }
    absent.iter().for_each(|(name, _)| devices.set_absent(name));
    let newest = epochs.iter().map(|(_, epoch)| *epoch).max().unwrap_or(0);
    for (pool, _) in epochs.iter().filter(|(_, epoch)| *epoch < newest) {
        let mark = EpochMark { instance: identity.instance, epoch: newest };
        pool.run(move |device| device.put_epoch_mark(mark)).await?;
    }
    // A database that was made before and whose only device is new, or one whose devices that are there are behind.
    Ok((newest.max(identity.epoch), absent))
}

/// Runs the daemon until it is told to stop. `path` is where the configuration is from, and is read from again.
///
/// # Errors
/// [`DaemonError`], if it does not start.
pub async fn serve(config: Config, path: &Path) -> Result<(), DaemonError> {
    // First: until somebody listens for it, it ends the process.
    let hangups = signal(SignalKind::hangup())?;
    let (sender, settings) = watch::channel(config.settings());
    let directory = &config.state_directory;
    store::check_directory(directory)?;
    let _lock = DirectoryLock::take(directory)?;
    let clock = system_clock();
    // Before anything is promised: a port that cannot be opened is found first.
    let tls_socket = match &config.tls {
        Some(tls) => Some(TlsSocket::listen(tls).await?),
        None => None,
    };
    Store::migrate(directory)?;
    let reader = Store::open_reader(directory)?;
    let identity = reader.identity()?;
    if identity.epoch == 0 {
        return Err(DaemonError::Unfinished);
    }
    let pins = Pins::load(&reader)?;
    let writer = Arc::new(Writer::start(directory, pins.clone())?);
    let keeper = |device: &DeviceConfig| -> Option<Arc<dyn LogKeeper>> {
        let (name, directory) = (device.name.clone(), directory.clone());
        Some(Arc::new(DeviceLog::new(name, directory, pins.clone(), writer.clone(), clock.clone())))
    };
    let devices = Arc::new(devices(&config, |device| device.sessions, keeper)?);
    let (agreed, absent) = agree(&devices, &identity, &reader).await?;
    for (device, error) in absent {
        tracing::error!(alarm = true, %device, %error, "the KMS starts without this device; it is taken up when it answers");
    }
    report_keys(&devices, pins.keys()).await?;
    let at = clock();
    let entry = Entry::Started {
        at,
        epoch: Integer::saturating(agreed + 1),
        program: env!("CARGO_PKG_VERSION").into(),
    };
    writer.write(move |batch| batch.append(&entry).map(drop)).await?;
    let epoch = epoch::advance(&writer, &devices, identity.instance, agreed).await?;

    tokio::spawn(epoch::take_up_absent(writer.clone(), devices.clone(), directory.clone(), pins.clone()));

    let (bell, due) = mpsc::channel(1);
    let bell = EpochBell { settings: settings.clone(), bell };
    let signing = Signing::new(pins.clone(), writer.clone(), reader, devices.clone(), clock.clone());
    let signing = Arc::new(signing.with_epoch_bell(bell));
    let is_looked_at = |device: &&DeviceConfig| matches!(device.driver, DriverConfig::Pkcs11 { .. });
    let keeping = Keeping {
        writer: writer.clone(),
        devices: devices.clone(),
        instance: identity.instance,
        epoch,
        looked_at: config.devices.iter().filter(is_looked_at).map(|device| device.name.clone()).collect(),
        settings: settings.clone(),
    };
    let overtaken = tokio::spawn(keeping.keep(due));
    let changes = ApprovedChanges::new(
        pins.clone(),
        signing.clone(),
        writer.clone(),
        devices.clone(),
        directory.clone(),
        clock.clone(),
    )?;
    let engine = Engine::new(pins.clone(), signing.clone(), changes, clock.clone(), settings.clone());
    let engine = Arc::new(engine);
    let reloads: Arc<Reloads> = Arc::default();
    let watched = Watched {
        started: at,
        clock: clock.clone(),
        pins: pins.clone(),
        writer: writer.clone(),
        reader: Mutex::new(Store::open_reader(directory)?),
        devices: devices.clone(),
        signing,
        engine: engine.clone(),
        reloads: reloads.clone(),
        tls: config.tls.clone().zip(tls_socket.as_ref().map(TlsSocket::server)),
    };
    if let Some((tls, server)) = &watched.tls {
        tokio::spawn(tls_expiry::keep_watch(tls.clone(), server.clone(), clock.clone(), settings.clone()));
    }
    let watched_over = directory.clone();
    tokio::spawn(life::keep_watch(
        writer.clone(),
        pins.clone(),
        watched_over,
        clock.clone(),
        settings.clone(),
    ));
    let directory = directory.clone();
    let admin = Admin::new(pins.clone(), writer, devices.clone(), directory, clock, settings.clone());
    let admin = Arc::new(admin);
    let desks = Desks {
        duties: duty::router(engine),
        administration: admin::router(admin),
        metrics: metrics::router(watched),
    };
    let reload = Reload { path: path.to_owned(), started_with: config.clone(), settings: sender, reloads };
    tokio::spawn(reload.keep(hangups));
    let ended = listen(&config, settings, desks, tls_socket, &pins, overtaken).await;
    for (name, pool) in devices.iter() {
        match tokio::time::timeout(STOP_PATIENCE, pool.finish()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(device = %name, %error, "the device is left as it is"),
            Err(_) => tracing::warn!(device = %name, "the device does not answer, and is left as it is"),
        }
    }
    ended
}

/// What answers on each socket.
struct Desks {
    duties: axum::Router,
    administration: axum::Router,
    metrics: axum::Router,
}

async fn listen(
    config: &Config,
    settings: InForce,
    desks: Desks,
    tls_socket: Option<TlsSocket>,
    pins: &Pins,
    overtaken: JoinHandle<EpochError>,
) -> Result<(), DaemonError> {
    let own = rustix::process::geteuid().as_raw();
    let duties = Socket::listen(&config.socket, Allowed::Users(&settings.borrow().allowed_users))?;
    if let Some(door) = duties.door() {
        tokio::spawn(keep_door(door, settings.clone()));
    }
    let remote_duties = desks.duties.clone();
    let mut sockets = vec![
        (duties, desks.duties),
        (Socket::listen(&config.admin_socket, Allowed::Users(&[own, 0]))?, desks.administration),
    ];
    if let Some(path) = &config.metrics_socket {
        sockets.push((Socket::listen(path, Allowed::Group)?, desks.metrics));
    }
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (stop, stopped) = watch::channel(false);
    let wait = |mut stopped: watch::Receiver<bool>| async move {
        // An error means that whoever could stop us is gone, and so are we.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let serve = |(socket, router): (Socket, _)| tokio::spawn(socket.serve(router, wait(stopped.clone())));
    let mut servers: Vec<_> = sockets.into_iter().map(serve).collect();
    let tls_address = tls_socket.as_ref().map(TlsSocket::address).transpose()?;
    // Never administration: whoever is let in there comes from elsewhere.
    servers.extend(tls_socket.map(|socket| {
        tokio::spawn(async move {
            socket.serve(remote_duties, settings, stopped).await;
            Ok(())
        })
    }));
    let deployment = pins.genesis().map(|genesis| genesis.id().to_string());
    tracing::info!(
        socket = %config.socket.display(),
        admin_socket = %config.admin_socket.display(),
        tls = tls_address.map(tracing::field::display),
        deployment = deployment.as_deref().unwrap_or("not pinned yet"),
        "ready"
    );
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        error = overtaken => {
            // Nothing more leaves: what is under way may be what the other KMS signs otherwise.
            servers.iter().for_each(JoinHandle::abort);
            config.sockets().into_iter().for_each(remove);
            return Err(error.map_err(std::io::Error::other)?.into());
        }
    }
    tracing::info!("stopping");
    // Nobody listens only if all ended by themselves.
    let _ = stop.send(true);
    let all = async {
        for server in servers {
            match server.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "a socket failed"),
                Err(error) => tracing::error!(%error, "a server broke off"),
            }
        }
    };
    if tokio::time::timeout(STOP_PATIENCE, all).await.is_err() {
        tracing::warn!("what was under way is cut off; it is done again after the next start");
        config.sockets().into_iter().for_each(remove);
    }
    Ok(())
}

/// Lets in whom the settings allow, as they change.
async fn keep_door(door: Door, mut settings: InForce) {
    while settings.changed().await.is_ok() {
        let users = settings.borrow_and_update().allowed_users.clone();
        if let Err(error) = door.admit(&users) {
            tracing::error!(%error, "users who may send duties by the configuration cannot");
        }
    }
}

fn remove(path: &Path) {
    // It is gone already if its server ended.
    let _ = std::fs::remove_file(path);
}

/// Says what is wrong with keys on the devices; their rows stay as they are.
async fn report_keys(devices: &Devices, rows: Vec<KeyRow>) -> Result<(), DaemonError> {
    for (row, difference) in presence::differences(devices, &rows).await? {
        let (name, version) = (&row.name, row.version);
        match difference {
            Difference::Other => tracing::error!(
                alarm = true, %name, %version, object = %row.object,
                "the token has another key in this one's place: it will sign nothing"
            ),
            Difference::Missing => tracing::error!(
                alarm = true, %name, %version, object = %row.object,
                "the token does not hold this key: restore the token from its backup, or rotate the key"
            ),
            Difference::NoDevice => tracing::error!(
                alarm = true, %name, %version, device = %row.device,
                "the configuration does not have the device of this key: it signs nothing until it is there again"
            ),
        }
    }
    Ok(())
}
