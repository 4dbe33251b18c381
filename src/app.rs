//! The whole: what every request is served with.

use std::sync::Arc;

use crate::auth::Auth;
use crate::collections::Catalog;
use crate::config::Config;
use crate::db;
use crate::db::Databases;
use crate::error::Result;
use crate::log;
use crate::node;
use crate::records;

/// Owns the databases and what is built on them.
pub struct App {
    pub databases: Arc<Databases>,
    pub catalog: Catalog,
    pub auth: Auth,
    /// The name of this node.
    pub node_id: String,
}

impl App {
    /// Opens the data directory.
    pub fn open(config: &Config) -> Result<App> {
        let settings = db::Settings {
            synchronous: config.synchronous,
            prepare: records::register,
        };
        let databases = Arc::new(Databases::open(&config.data_dir, settings)?);
        let auth = Auth::open(
            Arc::clone(databases.default()),
            &config.data_dir,
            config.jwt_secret.as_deref(),
            config.token_hours,
        )?;
        let catalog = Catalog::open(Arc::clone(&databases), records::check_rule);
        let node_id = node::id(databases.local())?;
        Ok(App {
            databases,
            catalog,
            auth,
            node_id,
        })
    }

    /// Closes the databases. Everything that holds an `App` or a part of one has ended by now.
    pub fn close(self) -> Result<()> {
        let App {
            databases,
            catalog,
            auth,
            ..
        } = self;
        drop((catalog, auth));
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
