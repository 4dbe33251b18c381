//! The whole: what every request is served with.

use std::sync::Arc;

use crate::auth;
use crate::auth::Auth;
use crate::collections::Catalog;
use crate::config::Config;
use crate::db;
use crate::db::Databases;
use crate::error::Result;
use crate::files::Files;
use crate::files::outbox;
use crate::files::sweep;
use crate::log;
use crate::mail::Mailer;
use crate::node;
use crate::records;
use crate::threads::Stop;

/// Owns the databases and what is built on them.
pub struct App {
    pub databases: Arc<Databases>,
    pub catalog: Arc<Catalog>,
    pub auth: Auth,
    pub mail: Mailer,
    pub files: Files,
    /// The name of this node.
    pub node_id: String,
}

impl App {
    /// Opens the data directory and starts what sends mail.
    pub fn open(config: &Config) -> Result<App> {
        let settings = db::Settings {
            synchronous: config.synchronous,
            prepare: records::register,
        };
        let databases = Arc::new(Databases::open(&config.data_dir, settings)?);
        let catalog = Arc::new(Catalog::open(Arc::clone(&databases), records::check_rule));
        let auth = Auth::open(
            Arc::clone(&databases),
            Arc::clone(&catalog),
            &config.data_dir,
            config.jwt_secret.as_deref(),
            auth::Settings {
                token_hours: config.token_hours,
                collection: config.auth_collection.clone(),
                public_url: config.public_url(),
            },
        )?;
        let node_id = node::id(databases.local())?;
        Ok(App {
            databases,
            catalog,
            auth,
            mail: Mailer::start(config.mail.as_ref())?,
            files: Files::open(&config.data_dir)?,
            node_id,
        })
    }

    /// Work that is due now and then. What fails is logged and tried again the next time.
    pub fn maintain(&self) {
        self.databases.maintain();
        if let Err(error) = self.auth.keys.write_last_used() {
            log::warn(format_args!("note when keys were used: {error}"));
        }
    }

    /// Puts right what a crash left between the storage and the databases. What fails is logged.
    pub fn recover_files(&self, stop: &Stop) {
        let recovered = self.databases.list().and_then(|names| {
            for name in names {
                outbox::empty(&self.databases, self.files.local(), &name, stop)?;
            }
            // What came after the start may be about to be named; the times of files are a little
            // behind the clock.
            let (local, before_ms) = (self.files.local(), self.files.opened_ms - 20);
            sweep::run(&self.databases, local, before_ms, stop)
        });
        if let Err(error) = recovered {
            log::warn(format_args!("look through the storage: {error}"));
        }
    }

    /// Closes the databases. Mail is stopped, and everything that holds an `App` or a part of one
    /// has ended by now.
    pub fn close(self) -> Result<()> {
        let App {
            databases,
            catalog,
            auth,
            ..
        } = self;
        if let Err(error) = auth.keys.write_last_used() {
            log::warn(format_args!("note when keys were used: {error}"));
        }
        drop((auth, catalog));
        match Arc::try_unwrap(databases) {
            Ok(databases) => databases.close(),
            Err(_) => {
                log::warn(format_args!(
                    "databases still in use at the end; not closed"
                ));
                Ok(())
            }
        }
    }
}
