//! The settings that all our HTTP requests to others share.

use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::typestate::AgentScope;

use super::tls::Roots;

/// The name that others see of this program.
const USER_AGENT: &str = concat!("vski/", env!("CARGO_PKG_VERSION"));

/// Every status is an answer, not an error. No redirect is followed: a signature, a token or a
/// secret is for one host. Bodies arrive as they are. The caller adds its time limits and the
/// number of idle connections.
pub fn config(roots: &Roots) -> ConfigBuilder<AgentScope> {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .tls_config(roots.for_requests())
        .user_agent(USER_AGENT)
        .accept_encoding("identity")
}
