//! The process: starts everything in order, waits for a signal, stops everything in reverse.
//!
//! Threads: `main` waits for signals, `worker`s and the engine's threads serve, `timer` runs the
//! clocks, `workflows` is their engine, `cron` and its three run the jobs, `realtime` tells subscribers, `realtime-check` looks up who they are, `files` keeps the
//! storage of a master, `webhooks` and its `webhook`s call others, `sync` and `wake` follow one on a replica, `mail` sends, `sockets` owns the
//! WebSockets, `log` writes the log. Order of stopping: no new requests; requests in flight are finished, at most
//! [`STOP_DEADLINE`]; the sockets; together the timer, workflows, jobs, files, realtime, webhooks and what tells
//! replicas or follows a master; mail; the databases; the log.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::api::cors::Cors;
use crate::api::{Api, ApiSettings};
use crate::app::App;
use crate::base::budget::Budgets;
use crate::base::error::{Error, Kind, Result, ResultExt as _};
use crate::base::threads::Stop;
use crate::base::tls::VARIABLE;
use crate::base::{failpoints, log, malloc, threads};
use crate::config::Config;
use crate::model::collections;
use crate::net::http;
use crate::services::cron::WorkerKind;
use crate::services::replication::{SyncLoop, notifications};
use crate::services::webhooks::Dispatcher;
use crate::store::{db, files};
use crate::{api, config};

/// How long an orderly stop may take; below `TimeoutStopSec` of the unit.
const STOP_DEADLINE: Duration = Duration::from_secs(8);
/// Pause between two rounds of the timer.
const TIMER_PAUSE: Duration = Duration::from_secs(60);
/// Looks at the memory in that time.
const TRIMS: u32 = 12;
/// A peak after which it is worth giving memory back.
const PEAK_BYTES: u64 = 16 << 20;
/// Descriptors kept for databases, log and the like when connections are counted.
const DESCRIPTORS_RESERVED: u64 = 128;
/// Sockets below which it is not worth starting.
const SOCKETS_MIN: usize = 16;

/// Serves until a signal comes. Calls `ready` with the address once requests are answered.
/// Returns whether everything ended within the deadline.
pub fn run<E: From<Error>>(
    config: &Config,
    ready: impl FnOnce(SocketAddr) -> std::result::Result<(), E>,
) -> std::result::Result<bool, E> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(Error::from)?;
    // So that a limit on the size of files is an error of the write that meets it, as a full disk
    // is, and not the end of the process.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map_err(Error::from)?;
    let log = log::start(config.log)?;
    log_panics();
    for (name, option) in config::misspelled() {
        log::warn(format_args!(
            "{name} is set, which is no option; {option} is one"
        ));
    }
    for sentence in &config.warnings {
        log::warn(format_args!("{sentence}"));
    }
    if let Some((trusted, ignored)) = config.roots.counts() {
        log::info(format_args!(
            "trusting the authorities of {VARIABLE} alone certificates={trusted} ignored={ignored}"
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

/// Says what is left to do before others may come.
fn log_setup_hints(config: &Config, app: &App) -> Result<()> {
    if let Some(token) = app.auth.setup_token()? {
        log::info(format_args!(
            "no admin yet: make one with vski admin create, or POST /api/admins/init setup_token={token}"
        ));
    }
    let default = app.databases.default();
    if config.mail.is_none() && default.read(collections::has_open_accounts)? {
        log::warn(format_args!(
            "SMTP_URL is not set and everybody may register (createRule): links that confirm addresses and \
             set passwords go to this log"
        ));
    }
    Ok(())
}

/// A thread of [`threads::spawn`] with its name.
type NamedThread = (&'static str, JoinHandle<()>);

/// What runs between start and stop.
pub struct Running {
    pub app: Arc<App>,
    pub http: http::server::Server,
    /// The threads that end at a stop, by name.
    threads: Vec<NamedThread>,
    stop: Stop,
}

/// Starts everything; requests are answered when it returns.
pub fn start(config: &Config) -> Result<Running> {
    let sockets_max = raise_descriptor_limit(config.connections_max, config.sockets_max)?;
    let listener = listen(config.listen)?;
    db::check_build()?;
    let app = Arc::new(App::open(config, sockets_max, api::route_names())?);
    let stop = Stop::new();
    let threads = start_threads(config, &app, &stop)?;
    let api = ApiSettings {
        upload_bytes_max: config.upload_bytes_max,
        cors: Cors::new(
            config.cors_origins.clone(),
            config.given_public_url().as_deref(),
        ),
        trusted_proxies: config.trusted_proxies.clone(),
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

/// Starts what works by itself: the clocks; what keeps the storage on a master, what follows one on a
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
            Dispatcher::new(&app.webhooks).run(stop)
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

/// The clock of jobs, and who does what is due.
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
    /// Ends everything in order; false when something did not end in time.
    pub fn stop(self) -> bool {
        let deadline = Instant::now() + STOP_DEADLINE;
        if let Ok(master) = self.app.master() {
            master.spools.stop();
        }
        // A script may hold up the writers for which requests wait.
        self.app.cron.stop();
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
                log::warn(format_args!("not ended in order thread={name}"));
                all_ended = false;
            }
        }
        let mail_ended = self.app.mail.stop(deadline);
        if !mail_ended {
            log::warn(format_args!(
                "still running thread=mail; the mail it is sending may be lost"
            ));
        }
        let closed = match Arc::try_unwrap(self.app) {
            Ok(app) => app.close(),
            Err(_) if left == 0 && sockets_ended && all_ended => {
                Err(Error::internal("databases still in use"))
            }
            // The process ends anyway, and SQLite recovers by itself.
            Err(_) => Ok(()),
        };
        if let Err(error) = &closed {
            log::error(format_args!("close: {error}"));
        }
        left == 0 && sockets_ended && all_ended && mail_ended && closed.is_ok()
    }
}

/// Ends the waits that the stop flag does not end. The threads end by themselves after that, in any order.
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

/// Closes all sockets and says what there was.
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
        log::warn(format_args!("still running thread=sockets"));
    }
    has_ended
}

/// The clocks: work that is due now and then. An error is logged and tried again next time.
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

/// After a peak of bodies and answers, memory goes back to the system.
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

/// Takes all the descriptors the system allows and refuses limits of connections above them.
/// Of sockets there are as many as that leaves; returns how many.
fn raise_descriptor_limit(connections_max: usize, sockets_max: usize) -> Result<usize> {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)
        .context("raise the limit of descriptors")?;
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    let wanted = (connections_max + SOCKETS_MIN) as u64 + DESCRIPTORS_RESERVED;
    if wanted > allowed {
        return Err(Error::invalid(format!(
            "MAX_CONNECTIONS={connections_max}: that needs {wanted} file descriptors and the system \
             allows {allowed}; lower it or raise the limit (LimitNOFILE, ulimit -n)."
        )));
    }
    let left = allowed - DESCRIPTORS_RESERVED - connections_max as u64;
    let sockets = sockets_max.min(usize::try_from(left).unwrap_or(usize::MAX));
    if sockets < sockets_max {
        log::warn(format_args!(
            "the system allows {allowed} file descriptors, which leaves {sockets} sockets of \
             MAX_SOCKETS={sockets_max}"
        ));
    }
    Ok(sockets)
}

/// A server that lacks a thread answers and does half of its work. What it has in memory may be wrong, so it is started
/// again from what is on disk, by systemd or the like: the exit code is 1.
fn stop_after_panic(thread: &str) {
    log::error(format_args!(
        "stopping, since a thread has panicked thread={thread}"
    ));
    if !failpoints::is_armed("stay", thread) {
        let _ = signal_hook::low_level::raise(SIGTERM);
    }
}

/// While the stop is under way another signal ends the process at once.
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
            log::warn(format_args!("ended at once signal={signal}"));
            std::process::exit(128 + signal);
        }
    })?;
    Ok(Waiting(handle))
}

/// A panic anywhere becomes a log line with its place; where it is caught, an answer goes out too.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        log::error(format_args!("panic thread={name} {panic}"));
    }));
}
