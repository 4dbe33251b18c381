//! The marks at which the parts of a zip archive begin.

pub const LOCAL: u32 = 0x0403_4b50;
pub const ENTRY: u32 = 0x0201_4b50;
pub const END_64: u32 = 0x0606_4b50;
pub const LOCATOR_64: u32 = 0x0706_4b50;
pub const END: u32 = 0x0605_4b50;
