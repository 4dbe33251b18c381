//! The settings that all our HTTP requests to others share.

use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::typestate::AgentScope;

use super::tls::Roots;

/// The name that others see of this program.
const USER_AGENT: &str = concat!("vski/", env!("CARGO_PKG_VERSION"));

/// Every status is an answer, not an error. No redirect is followed: a signature, a token or a
/// secret is for one host. Bodies arrive as they are. At most `idle_connections` are kept for the
/// next requests. The caller adds its time limits.
pub fn config(roots: &Roots, idle_connections: usize) -> ConfigBuilder<AgentScope> {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .tls_config(roots.for_requests())
        .user_agent(USER_AGENT)
        .accept_encoding("identity")
        .max_idle_connections(idle_connections)
        .max_idle_connections_per_host(idle_connections)
}
