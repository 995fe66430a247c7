//! Sets of fields.

use std::cmp::Ordering;

use super::Element;

/// A set of paths, as a tree: each node is one step, and says whether the path that ends there is in the set.
///
/// A path being in the set says nothing of the paths below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Sorted by step, no step twice, none without a member at or below it.
    pub(super) nodes: Vec<Node>,
}

/// One step, and what of the set begins with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) element: Element,
    /// Whether the path that ends here is in the set.
    pub(super) member: bool,
    pub(super) children: FieldSet,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }
}

impl FieldSet {
    /// Whether no path is in it.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Puts nodes in order; steps must differ.
    pub(super) fn from_nodes(mut nodes: Vec<Node>) -> Self {
        nodes.retain(|node| !node.is_empty());
        if !nodes.is_sorted_by(|a, b| a.element < b.element) {
            nodes.sort_by(|a, b| a.element.cmp(&b.element));
            nodes.dedup_by(|later, earlier| {
                let same = later.element == earlier.element;
                if same {
                    earlier.member |= later.member;
                    earlier.children = earlier.children.union(&later.children);
                }
                same
            });
        }
        Self { nodes }
    }

    /// The set of these paths of fields; for sets known when the program is written.
    pub fn of_fields(paths: &[&[&'static str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let path: Vec<Element> = path.iter().map(|name| Element::from(*name)).collect();
            set.insert(&path);
        }
        set
    }

    /// Puts a path in. The empty path, which is the whole object, is in no set.
    pub fn insert(&mut self, path: &[Element]) {
        let Some((first, rest)) = path.split_first() else {
            return;
        };
        let at = self.place(first).unwrap_or_else(|at| {
            let node = Node {
                element: first.clone(),
                member: false,
                children: Self::default(),
            };
            self.nodes.insert(at, node);
            at
        });
        if rest.is_empty() {
            self.nodes[at].member = true;
        } else {
            self.nodes[at].children.insert(rest);
        }
    }

    fn place(&self, element: &Element) -> Result<usize, usize> {
        self.nodes
            .binary_search_by(|node| node.element.cmp(element))
    }

    /// What of the set begins with this step.
    pub(super) fn below(&self, element: &Element) -> Option<&Node> {
        self.place(element).ok().map(|at| &self.nodes[at])
    }

    /// Whether the path is in the set.
    pub fn contains(&self, path: &[Element]) -> bool {
        match path.split_first() {
            None => false,
            Some((first, rest)) => self.below(first).is_some_and(|node| {
                if rest.is_empty() {
                    node.member
                } else {
                    node.children.contains(rest)
                }
            }),
        }
    }

    /// Whether every path of `other` is in the set.
    pub fn contains_all(&self, other: &Self) -> bool {
        other.nodes.iter().all(|theirs| {
            self.below(&theirs.element).is_some_and(|ours| {
                (ours.member || !theirs.member) && ours.children.contains_all(&theirs.children)
            })
        })
    }

    /// Whether some path is in both.
    pub fn intersects(&self, other: &Self) -> bool {
        other.nodes.iter().any(|theirs| {
            self.below(&theirs.element).is_some_and(|ours| {
                (ours.member && theirs.member) || ours.children.intersects(&theirs.children)
            })
        })
    }

    /// The paths in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.zip(other, |ours, theirs| match (ours, theirs) {
            (Some(ours), Some(theirs)) => Some(Node {
                element: ours.element.clone(),
                member: ours.member || theirs.member,
                children: ours.children.union(&theirs.children),
            }),
            (one, other) => one.or(other).cloned(),
        })
    }

    /// The paths in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.zip(other, |ours, theirs| {
            let (ours, theirs) = (ours?, theirs?);
            Some(Node {
                element: ours.element.clone(),
                member: ours.member && theirs.member,
                children: ours.children.intersection(&theirs.children),
            })
        })
    }

    /// The paths of this set that are not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.zip(other, |ours, theirs| {
            let ours = ours?;
            let Some(theirs) = theirs else {
                return Some(ours.clone());
            };
            Some(Node {
                element: ours.element.clone(),
                member: ours.member && !theirs.member,
                children: ours.children.difference(&theirs.children),
            })
        })
    }

    /// Takes the paths of the other out: the same as [`FieldSet::difference`], without a copy of what stays.
    pub fn subtract(&mut self, other: &Self) {
        for theirs in &other.nodes {
            if let Ok(at) = self.place(&theirs.element) {
                let ours = &mut self.nodes[at];
                ours.member &= !theirs.member;
                ours.children.subtract(&theirs.children);
                if ours.is_empty() {
                    self.nodes.remove(at);
                }
            }
        }
    }

    /// Takes out the paths of the other, and all paths below them.
    pub fn cut(&mut self, other: &Self) {
        for theirs in &other.nodes {
            if let Ok(at) = self.place(&theirs.element) {
                let ours = &mut self.nodes[at];
                ours.children.cut(&theirs.children);
                if theirs.member || ours.is_empty() {
                    self.nodes.remove(at);
                }
            }
        }
    }

    /// Walks both in order, pairing equal steps.
    fn zip(
        &self,
        other: &Self,
        combine: impl Fn(Option<&Node>, Option<&Node>) -> Option<Node>,
    ) -> Self {
        let mut nodes = Vec::with_capacity(self.nodes.len());
        let (mut ours, mut theirs) = (self.nodes.as_slice(), other.nodes.as_slice());
        loop {
            let order = match (ours.first(), theirs.first()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(one), Some(two)) => one.element.cmp(&two.element),
            };
            let one = (order != Ordering::Greater).then(|| take(&mut ours));
            let two = (order != Ordering::Less).then(|| take(&mut theirs));
            let node = combine(one.flatten(), two.flatten());
            nodes.extend(node.filter(|node| !node.is_empty()));
        }
        Self { nodes }
    }

    /// The paths, as conflicts name them: at each level first those that end there, then those that go on.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, prefix: &str, paths: &mut Vec<String>) {
        for node in self.nodes.iter().filter(|node| node.member) {
            paths.push(format!("{prefix}{}", node.element));
        }
        for node in self.nodes.iter().filter(|node| !node.children.is_empty()) {
            let prefix = format!("{prefix}{}", node.element);
            node.children.collect(&prefix, paths);
        }
    }
}

fn take<'a>(nodes: &mut &'a [Node]) -> Option<&'a Node> {
    let (first, rest) = nodes.split_first()?;
    *nodes = rest;
    Some(first)
}
