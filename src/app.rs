//! The application: the databases and the services on them, opened, maintained and closed.

use std::path::Path;
use std::sync::Arc;

use crate::base::budget::Budgets;
use crate::base::clock::DAY_MS;
use crate::base::error::{Error, Result};
use crate::base::signal::Signal;
use crate::base::threads::Stop;
use crate::base::{clock, log};
use crate::config::Config;
use crate::model::auth::{Auth, AuthSettings};
use crate::model::collections::Catalog;
use crate::model::events::Events;
use crate::model::records;
use crate::net::mail::Mailer;
use crate::net::sockets;
use crate::net::sockets::Hub;
use crate::services::backup::{Archives, missing};
use crate::services::cron::Cron;
use crate::services::oauth::OAuth;
use crate::services::realtime::Realtime;
use crate::services::replication::{Master, MasterClient, Notifier, Replica};
use crate::services::stats::Stats;
use crate::services::webhooks::Webhooks;
use crate::services::workflows::api_requests::WorkflowRequest;
use crate::services::workflows::{WorkerGrant, Workflows, queries};
use crate::services::{webhooks, workflows};
use crate::store::db::{Databases, Role};
use crate::store::files::scrub::SyncState;
use crate::store::files::{Files, Journal, Reserve};
use crate::store::replicas::Replicas;
use crate::store::{db, node};

/// The role of this server in replication, with the services of that role.
pub enum ReplicationRole {
    Master(Master, Arc<Notifier>),
    Replica(Arc<Replica>),
}

impl ReplicationRole {
    /// Opens the services of the configured role. Returns them with the name of this node.
    fn open(
        config: &Config,
        databases: &Arc<Databases>,
        files: &Files,
        auth: &Auth,
        node_id: String,
    ) -> Result<(String, ReplicationRole)> {
        let Some(settings) = &config.replica else {
            let master = Master::new(Arc::clone(databases), &config.data_dir, config.synchronous);
            let notifier = Arc::new(Notifier::new(&databases.changes));
            return Ok((node_id, ReplicationRole::Master(master, notifier)));
        };
        let id = settings.id.clone().unwrap_or(node_id);
        let sign = Box::new(auth.replica_signer(&id));
        let url = config.given_public_url();
        let client =
            MasterClient::new(&settings.master_url, &id, url, sign).with_roots(&config.roots);
        let replica = Replica::open(databases.local(), client, settings, &files.storage)?;
        Ok((id, ReplicationRole::Replica(Arc::new(replica))))
    }
}

/// Owns the databases and the services that handlers use.
pub struct App {
    pub databases: Arc<Databases>,
    pub catalog: Arc<Catalog>,
    /// The changes of records on their way to subscribers and webhooks.
    pub events: Arc<Events>,
    pub auth: Arc<Auth>,
    pub mail: Mailer,
    pub files: Files,
    /// Backups of this data directory as archives.
    pub archives: Archives,
    pub replicas: Replicas,
    pub part: ReplicationRole,
    pub sockets: Hub,
    pub workflows: Arc<Workflows>,
    pub realtime: Realtime,
    pub webhooks: Webhooks,
    pub cron: Cron,
    /// Asks the providers with which accounts sign in.
    pub oauth: OAuth,
    pub stats: Arc<Stats>,
    /// Limits on memory, disk and connections that peers make this server use.
    pub budgets: Budgets,
    file_sync_retention_ms: i64,
    workflow_retention_ms: i64,
    /// The name of this node.
    pub node_id: String,
}

/// Limits that follow from what the system allows this process.
pub struct AppLimits {
    pub sockets_max: usize,
    /// See [`db::connections_max`].
    pub tenant_connections: usize,
}

fn connection_settings(config: &Config, role: Role) -> db::ConnectionSettings {
    db::ConnectionSettings {
        role,
        synchronous: config.synchronous,
        prepare: records::register,
    }
}

fn open_archives(config: &Config, role: Role) -> Archives {
    let reserve = Reserve::new(config.reserve_bytes);
    let settings = connection_settings(config, role);
    Archives::open(&config.data_dir, config.s3.is_some(), reserve, settings)
}

/// Opens the data directory in a role, and logs problems with it.
fn open_databases(config: &Config, role: Role, tenant_connections: usize) -> Result<Databases> {
    let settings = connection_settings(config, role);
    let is_new = !db::default_file(&config.data_dir).exists();
    if is_new {
        log::info(format_args!(
            "no data in {}: creating new databases",
            config.data_dir.display()
        ));
    }
    let databases = Databases::open(&config.data_dir, settings, tenant_connections)?;
    node::claim_role(databases.local(), role, is_new)?;
    if role == Role::Master {
        report_missing_databases(&config.data_dir, &databases)?;
    }
    Ok(databases)
}

/// Logs the databases whose file is missing: otherwise the first request would be the first sign.
fn report_missing_databases(data_dir: &Path, databases: &Databases) -> Result<()> {
    let lost = databases
        .default()
        .read(|it| missing::databases(data_dir, it))?;
    for name in lost {
        log::error(format_args!(
            "{name}.db is missing or empty in {}, but has collections; put the file back or restore a backup",
            data_dir.display()
        ));
    }
    Ok(())
}

impl App {
    /// Opens the data directory and starts the threads for mail and sockets. `routes` has the names
    /// under which requests are counted.
    pub fn open(config: &Config, limits: &AppLimits, routes: Vec<String>) -> Result<App> {
        let role = match config.replica {
            Some(_) => Role::Replica,
            None => Role::Master,
        };
        let databases = Arc::new(open_databases(config, role, limits.tenant_connections)?);
        let budgets = Budgets::new(limits.sockets_max, config.threads, config.upload_bytes_max);
        // Writers of calls set the database in which a call waits; the sender of webhooks waits for
        // it.
        let calls = Arc::new(Signal::default());
        let catalog = Catalog::open(Arc::clone(&databases), records::CHECKS);
        let catalog = Arc::new(catalog);
        let events = Arc::new(Events::new(Arc::clone(&calls)));
        let auth = Arc::new(Auth::open(
            Arc::clone(&databases),
            Arc::clone(&catalog),
            Arc::clone(&events),
            &config.data_dir,
            config.jwt_secret.as_deref(),
            Arc::clone(&budgets.hashes),
            AuthSettings {
                token_hours: config.token_hours,
                collection: config.auth_collection.clone(),
                public_url: config.public_url(),
            },
        )?);
        let node_id = node::id(databases.local())?;
        let replicas = Replicas::open(Arc::clone(databases.local()))?;
        let (s3, reserve) = (config.s3.as_ref(), Reserve::new(config.reserve_bytes));
        let files = Files::open(&config.data_dir, s3, reserve, &databases, &replicas)?;
        let (node_id, part) = ReplicationRole::open(config, &databases, &files, &auth, node_id)?;
        let stats = Arc::new(Stats::new(Arc::clone(databases.stats()), routes));
        let workflows = Arc::new(Workflows::open(
            databases.workflows(),
            &auth,
            &stats,
            &node_id,
            &budgets.frames,
            workflows::ProtocolSettings::of_lease(config.workflow_lease_seconds),
        )?);
        let webhooks = webhook_settings(config, &auth, &node_id, &workflows);
        let cron = Cron::open(&databases, Arc::clone(&calls))?;
        let settings = sockets::HubSettings::default();
        let sockets = Hub::start(settings, &budgets.sockets, &budgets.send_queues)?;
        Ok(App {
            realtime: Realtime::new(
                &databases,
                &catalog,
                &auth,
                &events,
                sockets.pace(),
                &budgets,
            ),
            webhooks: Webhooks::new(&databases, calls, webhooks),
            oauth: open_oauth(config, &budgets)?,
            budgets,
            archives: open_archives(config, role),
            files,
            cron,
            stats,
            workflows,
            workflow_retention_ms: i64::from(config.workflow_retention_days) * DAY_MS,
            file_sync_retention_ms: i64::from(config.file_sync_retention_days) * DAY_MS,
            databases,
            catalog,
            events,
            auth,
            mail: Mailer::start(config.mail.as_ref())?,
            replicas,
            part,
            sockets,
            node_id,
        })
    }

    /// The source of replication. An error on a replica.
    pub fn master(&self) -> Result<&Master> {
        match &self.part {
            ReplicationRole::Master(master, _) => Ok(master),
            ReplicationRole::Replica(_) => Err(Error::read_only()),
        }
    }

    /// The notifier of replicas; none on a replica.
    pub fn notifier(&self) -> Option<&Arc<Notifier>> {
        match &self.part {
            ReplicationRole::Master(_, notifier) => Some(notifier),
            ReplicationRole::Replica(_) => None,
        }
    }

    /// The state of replication; none on a master.
    pub fn replica(&self) -> Option<&Arc<Replica>> {
        match &self.part {
            ReplicationRole::Replica(replica) => Some(replica),
            ReplicationRole::Master(..) => None,
        }
    }

    /// The public URL of a replica of this server, if it is known.
    pub fn url_of_node(&self, is_it: impl Fn(&str) -> bool) -> Option<String> {
        let known = self.replicas.list().into_iter();
        let mut found = known.filter(|replica| is_it(&replica.id));
        found.find_map(|replica| replica.public_url)
    }

    /// Periodic work of the timer. Errors are logged; the next round tries again.
    pub fn maintain(&self) {
        self.databases.maintain();
        let before = clock::now_ms() - self.workflow_retention_ms;
        if let Err(error) = self.workflows.delete_ended_before(before) {
            log::warn(format_args!("delete old runs of workflows: {error}"));
        }
        let depth = self.workflows.database.read(queries::depth);
        if let Err(error) = depth.and_then(|it| self.stats.depth(clock::now_ms(), it)) {
            log::warn(format_args!("count queued runs: {error}"));
        }
        if let Err(error) = self.stats.flush(clock::now_ms()) {
            log::warn(format_args!("write statistics: {error}"));
        }
        let ReplicationRole::Master(master, _) = &self.part else {
            return;
        };
        master.spools.forget_unused();
        self.webhooks.delete_expired();
        if let Err(error) = self.auth.keys.write_last_used() {
            log::warn(format_args!("record the last use of API keys: {error}"));
        }
        let retention_ms = self.file_sync_retention_ms;
        if let Some(journal) = &self.files.journal
            && let Err(error) = journal.delete_expired_when_due(&self.replicas, retention_ms)
        {
            log::warn(format_args!("clean up the journal of files: {error}"));
        }
    }

    /// Compares some stored files with their hashes. A replica downloads damaged ones again.
    pub fn scrub(&self, stop: &Stop) {
        let Files { storage, scrub, .. } = &self.files;
        if !storage.has_journal() {
            // A bucket checks its objects itself.
            return;
        }
        let repair = |remote| {
            if let Some(downloads) = self.replica().and_then(|it| it.downloads.as_ref()) {
                downloads.repair(remote);
            }
        };
        let sync = match self.replica() {
            None => SyncState::Master,
            Some(replica) if replica.has_all_files() => SyncState::Complete,
            Some(_) => SyncState::InProgress,
        };
        if let Err(error) = scrub.step(&self.databases, storage, &repair, sync, stop) {
            log::warn(format_args!("scrub files: {error}"));
        }
    }

    /// Records that a replica has every file up to an entry of the journal, and deletes the entries
    /// that all replicas have.
    pub fn acknowledge_files(&self, replica: &str, journal: &Journal, entry: i64) -> Result<()> {
        self.replicas.acknowledge_files(replica, entry)?;
        let since_ms = clock::now_ms() - self.file_sync_retention_ms;
        if let Some(entry) = self.replicas.files_acknowledged(since_ms) {
            journal.delete_until(entry)?;
        }
        Ok(())
    }

    /// Deletes a database softly: it and its files move to `deleted/`.
    pub fn delete_database(&self, name: &str) -> Result<()> {
        let storage = &self.files.storage;
        self.master()?.forget(name);
        self.catalog.delete_database(name, |file| {
            // The database is deleted already. If this fails, the next database of that name does
            // it.
            let moved = storage.move_aside(name, &file.with_extension("files"));
            if let Err(error) = moved.and_then(|()| self.begin_epoch_of_files()) {
                log::warn(format_args!("{error}"));
            }
        })?;
        self.record_databases();
        Ok(())
    }

    /// Creates a database. Moves aside the files that a crash left of an older one of this name.
    pub fn create_database(&self, name: &str) -> Result<()> {
        self.catalog.create_database(name, || {
            let folder = self.databases.aside(name, "files")?;
            self.files.storage.move_aside(name, &folder)?;
            self.begin_epoch_of_files()
        })?;
        self.record_databases();
        Ok(())
    }

    fn record_databases(&self) {
        let journal = self.files.journal.as_ref();
        if let Some(Err(error)) = journal.map(|it| it.save_databases(&self.databases)) {
            // The only effect is that replicas compare all files once more than necessary.
            log::warn(format_args!("record the list of databases: {error}"));
        }
    }

    fn begin_epoch_of_files(&self) -> Result<()> {
        match &self.files.journal {
            Some(journal) => journal.begin_epoch(&self.replicas),
            None => Ok(()),
        }
    }

    /// Closes the databases. Sockets, mail and all threads that hold a part of the application must
    /// have ended.
    pub fn close(self) -> Result<()> {
        let App {
            databases,
            catalog,
            auth,
            files,
            replicas,
            part,
            stats,
            workflows,
            realtime,
            events,
            webhooks,
            cron,
            ..
        } = self;
        if matches!(part, ReplicationRole::Master(..))
            && let Err(error) = auth.keys.write_last_used()
        {
            log::warn(format_args!("record the last use of API keys: {error}"));
        }
        if let Err(error) = stats.finish() {
            log::warn(format_args!("write statistics: {error}"));
        }
        drop((realtime, events, auth, catalog, files, webhooks, cron));
        drop((replicas, part, stats, workflows));
        match Arc::try_unwrap(databases) {
            Ok(databases) => databases.close(),
            Err(_) => {
                log::warn(format_args!(
                    "databases are still in use and were not closed"
                ));
                Ok(())
            }
        }
    }
}

fn open_oauth(config: &Config, budgets: &Budgets) -> Result<OAuth> {
    let secrets = config.provider_secrets.clone();
    OAuth::new(
        &config.roots,
        secrets,
        config.public_url(),
        &budgets.sign_ins,
    )
}

fn webhook_settings(
    config: &Config,
    auth: &Auth,
    node_id: &str,
    workflows: &Arc<Workflows>,
) -> webhooks::WebhookSettings {
    webhooks::WebhookSettings {
        secret: auth.webhook_secret(),
        node: node_id.to_owned(),
        denies_private: config.denies_private_webhooks,
        roots: config.roots.clone(),
        start: start_runs(workflows),
    }
}

/// The function by which webhooks start runs. The reference is weak, so that a call that is still
/// in progress does not keep the workflows open.
fn start_runs(workflows: &Arc<Workflows>) -> webhooks::StartRun {
    let workflows = Arc::downgrade(workflows);
    Box::new(move |run| match workflows.upgrade() {
        Some(workflows) => workflows.execute(
            WorkerGrant::default(),
            WorkflowRequest::Trigger(Box::new(run)),
        ),
        None => Err(Error::unavailable("The server is stopping.")),
    })
}
