//! Comparing the pages of a database by hash, in groups first, so that only pages that differ are
//! sent.
//!
//! A replica sends a hash for each group of pages ([`GroupHashes`]); the master answers with the
//! groups that differ. The replica then sends the hashes of the pages of these groups
//! ([`WantedGroups`]), and the master sends the pages that differ.

use std::collections::BTreeMap;

use super::client::MasterClient;
use super::epoch::Epoch;
use crate::base::error::{Error, Result};
use crate::store::db::pages::PageMap;

/// Pages in a group.
pub const GROUP_PAGES: usize = 256;
/// Limit on groups whose page hashes are sent in one request; of further groups the replica
/// requests all pages.
const GROUPS_MAX: usize = 1500;

/// The pages of a replica, as hashes of groups.
pub struct GroupHashes {
    pub page_size: u32,
    pub pages: u32,
    pub hashes: Vec<u64>,
}

/// Page hashes of some groups, by group number. An empty list requests every page of the group.
pub type WantedGroups = BTreeMap<u32, Vec<u64>>;

impl GroupHashes {
    /// Parses the body of a request: page size and number of pages (4 bytes each), then one hash (8
    /// bytes) per group, all little-endian.
    pub fn parse(body: &[u8]) -> Result<GroupHashes> {
        let (head, hashes) = body.split_at_checked(8).ok_or_else(no_hashes)?;
        let (page_size, pages) = (number(head, 0), number(head, 4));
        let hashes = parse_hashes(hashes)?;
        match hashes.len() == (pages as usize).div_ceil(GROUP_PAGES) {
            true => Ok(GroupHashes {
                page_size,
                pages,
                hashes,
            }),
            false => Err(no_hashes()),
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(8 + 8 * self.hashes.len());
        body.extend_from_slice(&self.page_size.to_le_bytes());
        body.extend_from_slice(&self.pages.to_le_bytes());
        body.extend(self.hashes.iter().flat_map(|hash| hash.to_le_bytes()));
        body
    }
}

/// Parses the body of a request. For each group it has the group number and the number of hashes (4
/// bytes each), then the hashes of its pages (8 bytes each), all little-endian.
pub fn parse_wanted(body: &[u8]) -> Result<WantedGroups> {
    let (mut wanted, mut rest) = (WantedGroups::new(), body);
    while !rest.is_empty() {
        let (head, tail) = rest.split_at_checked(8).ok_or_else(no_hashes)?;
        let count = number(head, 4) as usize;
        if count > GROUP_PAGES {
            return Err(no_hashes());
        }
        let (hashes, tail) = tail.split_at_checked(8 * count).ok_or_else(no_hashes)?;
        wanted.insert(number(head, 0), parse_hashes(hashes)?);
        rest = tail;
    }
    Ok(wanted)
}

/// Encodes the body that [`parse_wanted`] parses.
pub fn wanted_bytes(wanted: &WantedGroups) -> Vec<u8> {
    let mut body = Vec::new();
    for (group, hashes) in wanted {
        body.extend_from_slice(&group.to_le_bytes());
        body.extend_from_slice(&u32::try_from(hashes.len()).unwrap_or(0).to_le_bytes());
        body.extend(hashes.iter().flat_map(|hash| hash.to_le_bytes()));
    }
    body
}

fn number(head: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([0, 1, 2, 3].map(|i| head[at + i]))
}

fn parse_hashes(bytes: &[u8]) -> Result<Vec<u64>> {
    if !bytes.len().is_multiple_of(8) {
        return Err(no_hashes());
    }
    let hash = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    Ok(bytes.chunks_exact(8).map(hash).collect())
}

fn no_hashes() -> Error {
    Error::invalid("The body must be page hashes in the binary format of replication.")
}

/// Compares page hashes with the master's. Returns the master's version and the request for the
/// pages that differ; the request is empty if none does. Returns `None` if nothing can be compared.
pub fn find_differing(
    client: &MasterClient,
    name: &str,
    epoch: Epoch,
    page_size: u32,
    map: &PageMap,
) -> Result<Option<(u64, Vec<u8>)>> {
    let groups = GroupHashes {
        page_size,
        pages: map.len(),
        hashes: map.groups(GROUP_PAGES),
    };
    let compared = client.compare(name, &groups.to_bytes())?;
    if Epoch::parse(&compared.epoch) != Some(epoch) {
        return Err(epoch_changed());
    }
    let Some(groups) = compared.groups else {
        return Ok(None);
    };
    let wanted: WantedGroups = (0..)
        .zip(groups)
        .map(|(count, group)| {
            let hashes = map.group(group as usize, GROUP_PAGES);
            let hashes = if count < GROUPS_MAX { hashes } else { &[] };
            (group, hashes.to_vec())
        })
        .collect();
    Ok(Some((compared.version, wanted_bytes(&wanted))))
}

/// The master began another epoch after it sent its list.
pub fn epoch_changed() -> Error {
    Error::unavailable("The master began another epoch; trying again.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_read_as_they_were_written_and_nothing_else_is() {
        let groups = GroupHashes {
            page_size: 4096,
            pages: 300,
            hashes: vec![5, u64::MAX],
        };
        let bytes = groups.to_bytes();
        let read = GroupHashes::parse(&bytes).unwrap();
        assert_eq!(
            (read.page_size, read.pages, read.hashes),
            (4096, 300, vec![5, u64::MAX])
        );
        let wanted = WantedGroups::from([(0, vec![1, 2]), (7, Vec::new())]);
        assert_eq!(parse_wanted(&wanted_bytes(&wanted)).unwrap(), wanted);
        for length in 0..bytes.len() {
            assert!(GroupHashes::parse(&bytes[..length]).is_err(), "{length}");
        }
        assert!(parse_wanted(&[1]).is_err());
        assert!(parse_wanted(&[0, 0, 0, 0, 1, 1, 0, 0]).is_err());
        assert!(parse_wanted(&[0, 0, 0, 0, 1, 0, 0, 0]).is_err());
    }
}
