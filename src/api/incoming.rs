//! Bodies while they arrive: their limits, the budget that pays for them, and the receiver of a
//! form.
//!
//! A multipart form is received only from a caller who may call the endpoint: the checks of access
//! run before the first byte of the form is kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Api;
use super::answer::{body_too_large, forbidden, no_path};
use super::call::{credentials, payer_of, split_database};
use super::multipart_body::{Allowance, MultipartForm};
use super::routes::{BODY_BYTES, RouteAccess, RouteFiles};
use crate::base::budget::{Charge, Network, Payer};
use crate::base::error::{Error, Result};
use crate::model::collections::Collection;
use crate::model::rules::{Access, Identity, Operation};
use crate::net::http::route::RouteMatch;
use crate::net::http::{BodyPolicy, BodySink, Method, Request, multipart};
use crate::store::db;

impl BodyPolicy for Api {
    fn sink_for(&self, request: &Request, length: Option<u64>) -> Option<Box<dyn BodySink>> {
        let media_type = request.header("Content-Type").unwrap_or_default();
        let boundary = multipart::boundary(media_type)?;
        Some(Box::new(match self.allowance(request, length) {
            Ok(allowance) => MultipartForm::new(allowance, &boundary),
            Err(error) => MultipartForm::refused(error),
        }))
    }

    fn bytes_max(&self, method: Method, path: &str) -> usize {
        match self.router.find(method, split_database(path).1) {
            RouteMatch::Found((_, route), _) => route.body_bytes_max,
            RouteMatch::NotFound | RouteMatch::MethodNotAllowed(_) => BODY_BYTES,
        }
    }

    fn charge(&self, request: &Request) -> Charge {
        let payer = Payer {
            network: Network::of(self.client(request)),
            has_credentials: self.app.auth.has_credentials(credentials(request)),
        };
        self.app.budgets.bodies.empty(payer)
    }
}

impl Api {
    /// The contents that a form may have. An error, before the form is received, if the caller may
    /// not write or the endpoint accepts no form.
    fn allowance(&self, request: &Request, length: Option<u64>) -> Result<Allowance> {
        let (database, path) = split_database(&request.path);
        let database = database.unwrap_or(db::DEFAULT);
        let RouteMatch::Found((_, route), params) = self.router.find(request.method, path) else {
            return Err(no_path());
        };
        if route.access == RouteAccess::Replica {
            return Err(Error::invalid("This endpoint accepts no form."));
        }
        let identity = self.identify(route, request, database)?;
        let files = match route.files {
            RouteFiles::None => BTreeMap::new(),
            RouteFiles::Field(name) => {
                BTreeMap::from([(name.to_owned(), self.settings.upload_bytes_max)])
            }
            RouteFiles::Batch => self.files_of_batch(database, &identity)?,
            RouteFiles::Record => {
                let operation = match request.method {
                    Method::Post => Operation::Create,
                    _ => Operation::Update,
                };
                let collections = self.app.catalog.collections(database)?;
                let collection = collections.get(params.get("collection"))?;
                if collection.grant(operation, &identity).access == Access::Denied {
                    return Err(forbidden("Only admins may do this."));
                }
                file_fields(collection).collect()
            }
        };
        let bytes_max = match files.is_empty() {
            true => route.body_bytes_max as u64,
            false => self.settings.upload_bytes_max,
        };
        if length.is_some_and(|length| length > bytes_max) {
            return Err(body_too_large(bytes_max));
        }
        let payer = payer_of(self.client(request), &identity);
        let budgets = &self.app.budgets;
        Ok(Allowance {
            bytes_max,
            files,
            is_batch: route.files == RouteFiles::Batch,
            values: budgets.bodies.empty(payer),
            uploads: budgets.uploads.empty(payer),
            storage: Arc::clone(&self.app.files.storage),
        })
    }

    /// The file fields of all collections that the caller may write. A name that several
    /// collections have gets the largest limit.
    fn files_of_batch(&self, database: &str, identity: &Identity) -> Result<BTreeMap<String, u64>> {
        let collections = self.app.catalog.collections(database)?;
        let mut files = BTreeMap::new();
        for collection in collections.all().into_iter().filter(|it| it.has_files()) {
            for operation in [Operation::Create, Operation::Update] {
                if collection.grant(operation, identity).access != Access::Denied {
                    for (name, bytes_max) in file_fields(collection) {
                        let longest = files.entry(name).or_insert(0);
                        *longest = bytes_max.max(*longest);
                    }
                }
            }
        }
        Ok(files)
    }
}

/// The file fields of a collection, each with the size limit of a file in bytes.
fn file_fields(collection: &Collection) -> impl Iterator<Item = (String, u64)> {
    let fields = collection.fields.iter();
    fields.filter_map(|field| Some((field.name.clone(), field.file()?.bytes_max)))
}
