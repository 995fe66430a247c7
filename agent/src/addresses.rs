//! The addresses of one thing, a node or a Pod: one of each IP family it has.

use std::{fmt, net::IpAddr};

/// One address of each family, the primary one first; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    primary: IpAddr,
    secondary: Option<IpAddr>,
}

impl Addresses {
    /// The first of each family; `None` of nothing.
    #[must_use]
    pub fn of_each_family(all: impl IntoIterator<Item = IpAddr>) -> Option<Self> {
        let mut all = all.into_iter();
        let primary = all.next()?;
        let secondary = all.find(|addr| addr.is_ipv4() != primary.is_ipv4());
        Some(Self { primary, secondary })
    }

    /// The address that stands for all where there is room for one only.
    #[must_use]
    pub const fn primary(self) -> IpAddr {
        self.primary
    }

    /// The address of the same family as `other`.
    #[must_use]
    pub fn alike(self, other: IpAddr) -> Option<IpAddr> {
        self.into_iter()
            .find(|addr| addr.is_ipv4() == other.is_ipv4())
    }

    /// Whether this is one of them.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        self.into_iter().any(|own| own == address)
    }
}

impl From<IpAddr> for Addresses {
    fn from(primary: IpAddr) -> Self {
        Self {
            primary,
            secondary: None,
        }
    }
}

impl IntoIterator for Addresses {
    type Item = IpAddr;
    type IntoIter = std::iter::Chain<std::iter::Once<IpAddr>, std::option::IntoIter<IpAddr>>;

    fn into_iter(self) -> Self::IntoIter {
        std::iter::once(self.primary).chain(self.secondary)
    }
}

/// As the downward API lists them: `10.244.1.2,fd00::2`.
impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.primary)?;
        match self.secondary {
            Some(secondary) => write!(f, ",{secondary}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_of_each_family_counts_and_order_is_kept() {
        let addr = |text: &str| text.parse::<IpAddr>().expect("address");
        let all = ["fd00::1", "fd00::2", "10.0.0.1", "10.0.0.2"].map(addr);
        let both = Addresses::of_each_family(all).expect("some");
        assert_eq!(both.to_string(), "fd00::1,10.0.0.1");
        assert_eq!(both.alike(addr("192.0.2.1")), Some(addr("10.0.0.1")));
        let one = Addresses::of_each_family(all[..2].iter().copied()).expect("some");
        assert_eq!(one.alike(addr("192.0.2.1")), None);
        assert_eq!(Addresses::of_each_family([]), None);
    }
}
