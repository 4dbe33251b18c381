//! The one test target: the built program, met as its users meet it.
//!
//! Every test starts its own server on its own directory and a free port of the loopback, and ends
//! it when it is done. What belongs where:

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::needless_pass_by_value, reason = "json! makes values")]

mod support;

/// Commands, options, and what they print.
mod access;
mod accounts;
/// Backups of busy servers, put back; damage found.
mod backup;
/// Forms and JSON: what is accepted, how long it may be, and what it takes.
mod bodies;
mod cli;
/// Databases and collections over REST, and what is refused.
mod collections;
/// SQL of administrators, and the options in force.
mod console;
/// Totals of lists and their last pages are exact: beside writers, on replicas.
mod counts;
/// Kill -9: what was acknowledged is there, the rest is whole or absent.
mod crash;
/// Jobs that run by the clock: made, refused, run by hand, on replicas.
mod cron;
/// The files of the dashboard: addresses, caching, sizes.
mod dashboard;
/// Dates as values, in filters and in rules.
mod dates;
/// Definitions in the form of PocketBase, and their import.
mod definitions;
/// Full disks, unusable directories, files that grow, work that takes long.
mod faults;
mod files;
/// Filters and rules over REST: related records, membership, modifiers, functions, the request.
mod grammar;
/// The data of a PocketBase.
mod import;
/// Hostile clients: bodies, headers, connections, slow peers.
mod limits;
/// Signing in with a provider: accounts, shapes of providers, attacks.
mod oauth;
/// Queries that take long, and how `~` searches.
mod queries;
/// Subscriptions: delivery, order, limits, load, server-sent events.
mod realtime;
/// Records over REST: reading, lists, rules, and what is refused.
mod records;
/// Collections and fields that get other names, and everything that mentions them.
mod renames;
/// A master and replicas: following, refusing, kills, broken networks, other histories.
mod replication;
/// A stop is prompt, work in flight ends, the exit code, the second signal.
mod shutdown;
/// Statistics, over restarts.
mod stats;
/// More tenants than can be open at a time.
mod tenants;
/// Rules about the source itself.
mod tidy;
/// Certificates: trusted servers, and the errors about others.
mod tls;
/// `ETag` and `If-Match`: two editors of one record, answers that a client has already.
mod versions;
/// Collections of type `view` and named views: columns, rules, files, and what they may not tell.
mod views;
/// Calls to others: signatures, retries, restarts, the log.
mod webhooks;
/// Runs that end by their deadline, and what is tried again.
mod workflow_deadlines;
/// Starting workflows: callers, records and attributes.
mod workflow_starts;
/// Workflows: runs, workers, hooks.
mod workflows;

/// `vski workflows`: runs listed, changed, and moved to another node.
mod workflows_cli;
/// Writing records: bulk, batch, access, sizes, changes under load.
mod writes;
