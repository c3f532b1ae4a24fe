//! Enums whose values are a metric's label: each is the place of its counter in an array, has a name, and is listed once.

/// `ALL` is in the order of the places, and an array of counters has one of each: `[Count; Code::ALL.len()]`.
macro_rules! labelled {
    ($(#[$about:meta])* $name:ident { $($(#[$of:meta])* $value:ident = $label:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$of])* $value,)+
        }

        impl $name {
            pub const ALL: [$name; [$($label),+].len()] = [$($name::$value),+];

            /// The metrics' label.
            pub fn label(self) -> &'static str {
                [$($label),+][self as usize]
            }
        }
    };
}

pub(super) use labelled;

#[cfg(test)]
mod tests {
    labelled! {
        /// Two of them.
        Kind {
            One = "one",
            /// The other one.
            Another = "other",
        }
    }

    #[test]
    fn each_has_the_place_that_it_is_listed_at() {
        assert_eq!(Kind::ALL, [Kind::One, Kind::Another]);
        assert_eq!(Kind::ALL.map(|kind| kind as usize), [0, 1]);
        assert_eq!(Kind::ALL.map(Kind::label), ["one", "other"]);
    }
}
