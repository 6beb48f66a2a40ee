//! A list that mostly has one element, which then needs no memory of its own.

use std::ops::Deref;

/// A list.
pub enum Few<T> {
    /// One element.
    One([T; 1]),
    /// Any number of them.
    Many(Vec<T>),
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        let mut elements = elements.into_iter();
        match (elements.next(), elements.next()) {
            (Some(only), None) => Few::One([only]),
            (first, second) => Few::Many(first.into_iter().chain(second).chain(elements).collect()),
        }
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Few::One(only) => only,
            Few::Many(elements) => elements,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_the_elements_that_it_was_made_of() {
        for length in 0..4 {
            let few: Few<i32> = (0..length).collect();
            assert!(few.iter().copied().eq(0..length));
            assert_eq!(matches!(few, Few::One(_)), length == 1);
        }
    }
}
