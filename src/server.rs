//! The process: starts everything in order, waits for a signal, stops everything in reverse.
//!
//! `docs/architecture.md` lists the threads and the order of stopping. In short: no new requests;
//! requests in flight finish, within [`STOP_DEADLINE`]; the sockets close; the threads of the
//! services end together; mail; the databases; the log.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::api::cors::Cors;
use crate::api::{Api, ApiSettings, settings};
use crate::app::{App, AppLimits};
use crate::base::budget::Budgets;
use crate::base::error::{Error, Kind, Result, ResultExt as _};
use crate::base::threads::Stop;
use crate::base::tls::VARIABLE;
use crate::base::{failpoints, log, malloc, memory, threads};
use crate::config::Config;
use crate::model::collections;
use crate::net::http;
use crate::services::cron::WorkerKind;
use crate::services::replication::{SyncLoop, notifications};
use crate::services::webhooks::Dispatcher;
use crate::store::{db, files};
use crate::{api, config};

/// Time limit of an orderly stop; less than `TimeoutStopSec` of the unit.
const STOP_DEADLINE: Duration = Duration::from_secs(8);
/// Pause between two rounds of maintenance.
const TIMER_PAUSE: Duration = Duration::from_secs(60);
/// Checks of the memory in that time.
const TRIMS: u32 = 12;
/// Memory is returned to the system after a peak of this many bytes.
const PEAK_BYTES: u64 = 16 << 20;
/// File descriptors reserved for databases, the log and the like.
const DESCRIPTORS_RESERVED: u64 = 128;
/// Descriptors kept for connections to tenants, at the cost of sockets; half of what is left if
/// that is less.
const TENANT_DESCRIPTORS_MIN: u64 = 2 * 64 * db::CONNECTION_DESCRIPTORS;
/// The server does not start with fewer sockets than this.
const SOCKETS_MIN: usize = 16;

/// Serves until a signal arrives. Calls `ready` with the address once requests are accepted.
/// Returns true if everything ended within the deadline.
pub fn run<E: From<Error>>(
    config: &Config,
    ready: impl FnOnce(SocketAddr) -> std::result::Result<(), E>,
) -> std::result::Result<bool, E> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(Error::from)?;
    // With a handler, a write beyond the limit on file sizes fails like one to a full disk and does
    // not end the process.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map_err(Error::from)?;
    let log = log::start(config.log)?;
    log_panics();
    for (name, option) in config::misspelled() {
        log::warn(format_args!(
            "{name} is set but is not an option; did you mean {option}?"
        ));
    }
    for sentence in &config.warnings {
        log::warn(format_args!("{sentence}"));
    }
    if let Some((trusted, ignored)) = config.roots.counts() {
        log::info(format_args!(
            "trusting only the authorities in {VARIABLE} certificates={trusted} ignored={ignored}"
        ));
    }
    threads::on_panic(Some(stop_after_panic));
    let running = start(config).map_err(E::from)?;
    log::info(format_args!(
        "started version={} node={} addr={} data={}",
        env!("CARGO_PKG_VERSION"),
        running.app.node_id,
        running.http.local_addr(),
        config.data_dir.display()
    ));
    if config.replica.is_none() {
        log_setup_hints(config, &running.app).map_err(E::from)?;
    }
    ready(running.http.local_addr())?;
    if let Some(signal) = signals.forever().next() {
        log::info(format_args!("stopping signal={signal}"));
    }
    threads::on_panic(None);
    let second = exit_on_second_signal(signals)?;
    let is_clean = running.stop() && threads::first_panicked().is_none();
    log::info(format_args!("stopped clean={is_clean}"));
    log.finish();
    drop(second);
    Ok(is_clean)
}

/// Logs the steps that are left before others may use the server.
fn log_setup_hints(config: &Config, app: &App) -> Result<()> {
    if let Some(token) = app.auth.setup_token()? {
        log::info(format_args!(
            "no admin yet: create one with vski admin create, or POST /api/admins/init setup_token={token}"
        ));
    }
    let default = app.databases.default();
    if config.mail.is_none() && default.read(collections::has_open_accounts)? {
        log::warn(format_args!(
            "SMTP_URL is not set and everyone may register (createRule): links that confirm addresses \
             and set passwords are written to this log"
        ));
    }
    Ok(())
}

/// A thread of [`threads::spawn`] with its name.
type NamedThread = (&'static str, JoinHandle<()>);

/// A running server.
pub struct Running {
    pub app: Arc<App>,
    pub http: http::server::Server,
    /// The threads of the services.
    threads: Vec<NamedThread>,
    stop: Stop,
}

/// Starts everything. Requests are accepted when it returns.
pub fn start(config: &Config) -> Result<Running> {
    let descriptors = raise_descriptor_limit(config.connections_max, config.sockets_max)?;
    let limits = AppLimits {
        sockets_max: descriptors.sockets_max,
        tenant_connections: db::connections_max(descriptors.of_tenants, memory::limit()),
    };
    let listener = listen(config.listen)?;
    db::check_build()?;
    let app = Arc::new(App::open(config, &limits, api::route_names())?);
    let stop = Stop::new();
    let threads = start_threads(config, &app, &stop)?;
    let api = ApiSettings {
        upload_bytes_max: config.upload_bytes_max,
        cors: Cors::new(
            config.cors_origins.clone(),
            config.given_public_url().as_deref(),
        ),
        has_dashboard: config.has_dashboard,
        trusted_proxies: config.trusted_proxies.clone(),
        shown: settings::describe(config),
        options: settings::describe_options(config),
    };
    let api = Arc::new(Api::new(Arc::clone(&app), api));
    let settings = http::server::ServerSettings {
        workers: config.threads,
        connections_max: config.connections_max,
        is_endless: api::is_endless,
        ..http::server::ServerSettings::default()
    };
    let bodies = Arc::clone(&api) as Arc<dyn http::BodyPolicy>;
    let handler = Arc::new(move |request| api.handle(&request));
    let http = http::server::Server::start(listener, &settings, &bodies, handler)?;
    Ok(Running {
        app,
        http,
        threads,
        stop,
    })
}

/// Starts the threads that work without a request: for the clocks, and those of a master or of a
/// replica.
fn start_threads(config: &Config, app: &Arc<App>, stop: &Stop) -> Result<Vec<NamedThread>> {
    let spawn = |name: &'static str, body: fn(&App, &Stop)| {
        let (app, stop) = (Arc::clone(app), stop.clone());
        threads::spawn(name, move || body(&app, &stop)).map(|thread| (name, thread))
    };
    let timer = spawn("timer", run_timer)?;
    let workflows = spawn("workflows", |app, stop| app.workflows.run(stop))?;
    let cron = start_cron(app)?;
    let common = [timer, workflows].into_iter().chain(cron);
    let Some(replica) = app.replica() else {
        let files = spawn("files", |app, stop| {
            files::storage_worker::run(&app.databases, &app.files, stop);
        })?;
        let notify = spawn("notify", |app, stop| {
            if let (Some(notifier), Ok(master)) = (app.notifier(), app.master()) {
                notifier.run(master, stop);
            }
        })?;
        let realtime = spawn("realtime", |app, stop| app.realtime.run(stop))?;
        let checks = spawn("realtime-check", |app, stop| app.realtime.run_checks(stop))?;
        let webhooks = spawn("webhooks", |app, stop| {
            Dispatcher::new(&app.webhooks).run(stop);
        })?;
        let all = common.chain([files, notify, realtime, checks, webhooks]);
        return Ok(all.collect());
    };
    let storage = &app.files.storage;
    let sync = SyncLoop::new(
        replica,
        &app.databases,
        &app.catalog,
        storage,
        &config.data_dir,
    )?;
    let sync = ("sync", threads::spawn("sync", move || sync.run())?);
    let wake = spawn("wake", |app, stop| {
        if let Some(replica) = app.replica() {
            notifications::listen(replica, stop);
        }
    })?;
    let downloads = replica
        .downloads
        .as_ref()
        .map(|it| it.start())
        .transpose()?;
    let downloads = downloads.into_iter().flatten().map(|it| ("download", it));
    Ok(common.chain([sync, wake]).chain(downloads).collect())
}

/// Starts the clock of jobs and their workers.
fn start_cron(app: &Arc<App>) -> Result<Vec<NamedThread>> {
    let clock = Arc::clone(app);
    let mut all = vec![("cron", threads::spawn("cron", move || clock.cron.run())?)];
    for (name, lane) in [
        ("cron-sql", WorkerKind::Sql),
        ("cron-http", WorkerKind::Http),
        ("cron-runs", WorkerKind::Workflow),
    ] {
        let app = Arc::clone(app);
        let work = move || app.cron.work(lane, &app.workflows);
        all.push((name, threads::spawn(name, work)?));
    }
    Ok(all)
}

impl Running {
    /// Stops everything in order. Returns false if something did not end in time.
    pub fn stop(self) -> bool {
        let deadline = Instant::now() + STOP_DEADLINE;
        if let Ok(master) = self.app.master() {
            master.spools.stop();
        }
        // First: a script may hold the writer for which requests wait.
        self.app.cron.stop();
        self.app.archives.stop();
        let left = self.http.stop(STOP_DEADLINE).in_flight_left;
        let counters = self.http.counters();
        log::info(format_args!(
            "served requests={} refused={} evicted={} slow={} unaccepted={} open={}",
            counters.requests,
            counters.refused,
            counters.evicted,
            counters.slow_closed,
            counters.accept_failed,
            counters.connections,
        ));
        if left > 0 {
            log::warn(format_args!("requests cut off count={left}"));
        }
        drop(self.http);
        self.app.workflows.announce_stop();
        let sockets_ended = stop_sockets(&self.app, deadline);
        self.stop.set();
        wake_services(&self.app);
        let mut all_ended = true;
        for (name, thread) in self.threads {
            if !threads::join_until(thread, deadline) {
                log::warn(format_args!("thread did not end in time thread={name}"));
                all_ended = false;
            }
        }
        let mail_ended = self.app.mail.stop(deadline);
        if !mail_ended {
            log::warn(format_args!(
                "thread did not end in time thread=mail; the mail it is sending may be lost"
            ));
        }
        let closed = match Arc::try_unwrap(self.app) {
            Ok(app) => app.close(),
            Err(_) if left == 0 && sockets_ended && all_ended => {
                Err(Error::internal("databases still in use"))
            }
            // A request or thread still uses them. The process ends anyway, and SQLite recovers.
            Err(_) => Ok(()),
        };
        if let Err(error) = &closed {
            log::error(format_args!("close: {error}"));
        }
        left == 0 && sockets_ended && all_ended && mail_ended && closed.is_ok()
    }
}

/// Ends the waits that the stop flag does not end. The threads end by themselves after that, in any
/// order.
fn wake_services(app: &App) {
    app.workflows.wake();
    app.realtime.wake();
    app.files.signal.wake();
    app.webhooks.signal.wake();
    if let Some(notifier) = app.notifier() {
        notifier.wake();
    }
    if let Some(replica) = app.replica() {
        replica.stop();
    }
}

/// Closes all sockets and logs their counters.
fn stop_sockets(app: &App, deadline: Instant) -> bool {
    let has_ended = app.sockets.stop(deadline);
    let counters = app.sockets.counters();
    log::info(format_args!(
        "sockets opened={} slow={} dead={} in={} out={} left={}",
        counters.opened,
        counters.slow_closed,
        counters.dead_closed,
        counters.messages_in,
        counters.messages_out,
        counters.open,
    ));
    if !has_ended {
        log::warn(format_args!("thread did not end in time thread=sockets"));
    }
    has_ended
}

/// The loop of the timer: maintenance, scrubbing, and returning memory to the system.
fn run_timer(app: &App, stop: &Stop) {
    loop {
        app.maintain();
        app.scrub(stop);
        for _ in 0..TRIMS {
            trim_memory(app);
            if stop.wait(TIMER_PAUSE / TRIMS) {
                return;
            }
        }
    }
}

/// Returns memory to the system after a peak of bodies and answers.
fn trim_memory(app: &App) {
    let Budgets {
        bodies, answers, ..
    } = &app.budgets;
    if bodies.take_peak() + answers.take_peak() > PEAK_BYTES {
        malloc::trim();
    }
}

fn listen(addr: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(addr).map_err(|error| {
        Error::new(
            Kind::Unavailable,
            format!("Cannot listen on {addr}: {error}."),
        )
    })
}

/// The descriptors that the system allows, after those of connections.
struct Descriptors {
    sockets_max: usize,
    of_tenants: u64,
}

/// Raises the limit of file descriptors to the maximum that the system allows. Reduces the number
/// of sockets if the limit is too low for `sockets_max` and [`TENANT_DESCRIPTORS_MIN`]. An error if
/// it is too low for the connections.
fn raise_descriptor_limit(connections_max: usize, sockets_max: usize) -> Result<Descriptors> {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)
        .context("raise the limit of descriptors")?;
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    let wanted = (connections_max + 2 * SOCKETS_MIN) as u64 + DESCRIPTORS_RESERVED;
    if wanted > allowed {
        return Err(Error::invalid(format!(
            "MAX_CONNECTIONS={connections_max} needs {wanted} file descriptors, but the system \
             allows {allowed}; lower it or raise the limit (LimitNOFILE, ulimit -n)."
        )));
    }
    let left = allowed - DESCRIPTORS_RESERVED - connections_max as u64;
    let for_sockets = left.saturating_sub(TENANT_DESCRIPTORS_MIN.min(left / 2));
    let sockets = sockets_max.min(usize::try_from(for_sockets).unwrap_or(usize::MAX));
    if sockets < sockets_max {
        log::warn(format_args!(
            "MAX_SOCKETS={sockets_max} is reduced to {sockets}: the system allows {allowed} file \
             descriptors"
        ));
    }
    Ok(Descriptors {
        sockets_max: sockets,
        of_tenants: left - sockets as u64,
    })
}

/// Stops the server after a panic of a thread: without the thread part of its work is not done, and
/// its memory may be inconsistent. The exit code is 1, so that systemd starts it again from disk.
fn stop_after_panic(thread: &str) {
    log::error(format_args!(
        "stopping because a thread has panicked thread={thread}"
    ));
    if !failpoints::is_armed("stay", thread) {
        let _ = signal_hook::low_level::raise(SIGTERM);
    }
}

/// Lets another signal end the process at once while it stops.
fn exit_on_second_signal(mut signals: Signals) -> Result<impl Drop> {
    struct Waiting(signal_hook::iterator::Handle);
    impl Drop for Waiting {
        fn drop(&mut self) {
            self.0.close();
        }
    }
    let handle = signals.handle();
    threads::spawn("signals", move || {
        if let Some(signal) = signals.forever().next() {
            log::warn(format_args!("exiting at once signal={signal}"));
            std::process::exit(128 + signal);
        }
    })?;
    Ok(Waiting(handle))
}

/// Logs every panic with its location.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        log::error(format_args!("panic thread={name} {panic}"));
    }));
}
