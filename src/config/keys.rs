//! One declaration per configuration key.
//!
//! [`settings!`] declares a struct of the model with the keys that it is read from. Each field states its doc comment,
//! type, [`Kind`] (range, unit, how it is read and written) and default, and from that come the struct, its
//! constructor, the reader, `check --print`, the JSON Schema with the texts that editors show, and `conf/full.yaml`.

use super::decode::MapReader;
use super::kind::Kind;
use super::outline::Map;
use super::shape::KeyShape;

/// A type that is read from the keys of a map.
pub(super) trait ConfigKeys: Sized {
    /// Adds the names of its keys.
    fn names(names: &mut Vec<&'static str>);
    /// Adds the description of its keys.
    fn describe(keys: &mut Vec<KeyShape>);
    /// JSON Schema's keyword and its keys: `allOf`, `anyOf` or `oneOf` of these must be present.
    fn needs() -> Option<(&'static str, &'static [&'static str])> {
        None
    }
    /// Reads it and reports problems; `None`: the value of the map cannot be determined.
    fn read(map: &MapReader<'_>) -> Option<Self>;
    /// Adds its keys, defaults filled in.
    fn write(&self, map: &mut Map);
}

/// The value of a key in a map.
pub(super) enum Got<T> {
    Value(T),
    Absent,
    /// It has a problem, which was reported.
    Misread,
}

impl<T> Got<T> {
    pub(super) fn value(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Misread => None,
        }
    }
}

/// A field of a struct of the model: one key, or ([`Beside`]) a struct with keys in the same map.
pub(super) trait Field<T> {
    fn names(&self, name: &'static str, names: &mut Vec<&'static str>);
    fn describe(&self, key: KeyShape, default: Option<&T>, keys: &mut Vec<KeyShape>);
    fn get(&self, map: &MapReader<'_>, name: &'static str) -> Got<T>;
    fn put(&self, value: &T, name: &'static str, map: &mut Map);
    /// The allowed values, if they are few.
    fn words(&self) -> Option<String> {
        None
    }
}

impl<T: 'static> Field<T> for Kind<T> {
    fn names(&self, name: &'static str, names: &mut Vec<&'static str>) {
        names.push(name);
    }

    fn describe(&self, key: KeyShape, default: Option<&T>, keys: &mut Vec<KeyShape>) {
        keys.push(key.with_value(self.shape(), default.and_then(|default| self.write(default))));
    }

    fn get(&self, map: &MapReader<'_>, name: &'static str) -> Got<T> {
        map.read(name, self)
    }

    fn put(&self, value: &T, name: &'static str, map: &mut Map) {
        map.put(name, self.write(value));
    }

    fn words(&self) -> Option<String> {
        Some(self.words.join(", ")).filter(|words| !words.is_empty())
    }
}

/// The keys of a field that is a struct, in the same map as the other fields' keys.
pub(super) struct Beside;

impl<T: ConfigKeys> Field<T> for Beside {
    fn names(&self, _: &'static str, names: &mut Vec<&'static str>) {
        T::names(names);
    }

    fn describe(&self, _: KeyShape, _: Option<&T>, keys: &mut Vec<KeyShape>) {
        T::describe(keys);
    }

    fn get(&self, map: &MapReader<'_>, _: &'static str) -> Got<T> {
        T::read(map).map_or(Got::Misread, Got::Value)
    }

    fn put(&self, value: &T, _: &'static str, map: &mut Map) {
        value.write(map);
    }
}

/// Why a key has no effect, and the key that this follows from.
pub(super) type Useless = Option<(&'static str, String)>;

/// Reports the keys of `names` that are there and have no effect.
pub(super) fn report_useless(map: &MapReader<'_>, names: &[&'static str], why: impl Fn(&str) -> Useless) {
    for name in names.iter().filter(|name| map.has(name)) {
        if let Some((_, why)) = why(name).filter(|(given, _)| !map.misread(given)) {
            map.problem(name, format!("{name:?} in {} does nothing: {why}", map.what()));
        }
    }
}

/// Declares a struct of the model and its keys. The struct's name may be followed by
/// - `: Default` or `: new`: the constructor that it gets; `new` takes the required fields
/// - `, needs`: which of the keys must be present ([`ConfigKeys::needs`])
/// - `, useless`: a function of the value and a key that returns why the key has no
///   effect; such a key is a problem, and is not written
/// - `, check`: a function that fills in what depends on other keys and reports what does not fit together
///
/// A field is `name as "key": Type => kind`, followed by
/// - `default`: its value if the key is absent
/// - `absent`: the same, where that value cannot be written or depends on something else
/// - `required`: the key must be present; the text is an example. `absent` is then the value for further reading
/// - `example`: a value for `conf/full.yaml`; without it, the default
/// - `only`: when the key has an effect
/// - `with`: another key that must be present as well
///
/// Fields under `also` have no key of their own.
macro_rules! settings {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident $(: $constructor:ident)?
            $(, needs $needs:tt)? $(, useless $useless:path)? $(, check $check:path)?
        {
            $(
                $(#[doc = $doc:literal])*
                $field:ident $(as $key:literal)? : $type:ty => $kind:expr
                $(, default $default:expr)?
                $(, absent $absent:expr)?
                $(, required $required:literal)?
                $(, example $example:literal)?
                $(, only $only:literal)?
                $(, with $with:literal)?
                ;
            )*
        }
        $(also { $($(#[$also_meta:meta])* $also:ident: $also_type:ty = $also_value:expr;)* })?
    ) => {
        $(#[$meta])*
        $vis struct $name {
            $($(#[doc = $doc])* pub $field: $type,)*
            $($($(#[$also_meta])* pub $also: $also_type,)*)?
        }

        settings!(@constructor $($constructor)? $name
            { $($($field: $type, $required;)?)* }
            {
                $(settings!(@let $field: $type, $($required)?; $(= $default)? $(= $absent)?);)*
                Self { $($field,)* $($($also: $also_value,)*)? }
            }
        );

        // The kinds, apart from the local variables that have the fields' names.
        impl $name {
            $(fn $field() -> impl $crate::config::keys::Field<$type> {
                $kind
            })*
        }

        #[allow(unused_variables)]
        impl $crate::config::keys::ConfigKeys for $name {
            fn names(names: &mut Vec<&'static str>) {
                $($crate::config::keys::Field::<$type>::names(&Self::$field(), settings!(@key $field $($key)?), names);)*
            }

            fn describe(keys: &mut Vec<$crate::config::shape::KeyShape>) {
                $(
                    settings!(@let $field: $type, ; $(= $default)?);
                    #[allow(unused_mut)]
                    let mut key = $crate::config::shape::KeyShape::new(settings!(@key $field $($key)?), &[$($doc),*]);
                    $(key.require($required);)?
                    $(key.example = Some($example);)?
                    $(key.only = Some($only);)?
                    $(key.with = Some($with);)?
                    let default = settings!(@some $field $(, $default)?);
                    $crate::config::keys::Field::<$type>::describe(&Self::$field(), key, default, keys);
                )*
            }

            $(fn needs() -> Option<(&'static str, &'static [&'static str])> {
                Some($needs)
            })?

            fn read(map: &$crate::config::decode::MapReader<'_>) -> Option<Self> {
                $(
                    let key = settings!(@key $field $($key)?);
                    let $field = $crate::config::keys::Field::<$type>::get(&Self::$field(), map, key);
                    $(if matches!($field, $crate::config::keys::Got::Absent) {
                        let end = match $crate::config::keys::Field::<$type>::words(&Self::$field()) {
                            Some(words) => format!(": one of {words}"),
                            None => format!(", such as {}", $required),
                        };
                        map.needs(key, &end);
                    })?
                    $(if map.has(key) && !map.has($with) {
                        map.problem(key, format!("{key:?} in {} needs {:?} next to it", map.what(), $with));
                    })?
                )*
                $(let $field: $type = match $field.value() {
                    Some(value) => value,
                    None => settings!(@or $($default)? $($absent)?),
                };)*
                #[allow(unused_mut)]
                let mut value = Self { $($field,)* $($($also: $also_value,)*)? };
                $(
                    let mut names = Vec::new();
                    <Self as $crate::config::keys::ConfigKeys>::names(&mut names);
                    $crate::config::keys::report_useless(map, &names, |key| $useless(&value, key));
                )?
                $($check(&mut value, map);)?
                Some(value)
            }

            fn write(&self, map: &mut $crate::config::outline::Map) {
                $($crate::config::keys::Field::<$type>::put(&Self::$field(), &self.$field, settings!(@key $field $($key)?), map);)*
                $(map.retain(|key| $useless(self, key).is_none());)?
            }
        }
    };

    (@constructor $name:ident $required:tt $body:tt) => {};
    (@constructor Default $name:ident {} $body:block) => {
        impl Default for $name {
            fn default() -> Self $body
        }
    };
    (@constructor new $name:ident { $($field:ident: $type:ty, $required:literal;)* } $body:block) => {
        impl $name {
            /// With the defaults.
            pub fn new($($field: $type),*) -> Self $body
        }
    };

    (@let $field:ident: $type:ty, $required:literal; $(= $value:expr)?) => {};
    (@let $field:ident: $type:ty, ;) => {};
    (@let $field:ident: $type:ty, ; = $value:expr) => { let $field: $type = $value; };

    (@key $field:ident) => { stringify!($field) };
    (@key $field:ident $key:literal) => { $key };

    (@some $field:ident) => { None };
    (@some $field:ident, $default:expr) => { Some(&$field) };

    (@or) => { return None };
    (@or $value:expr) => { $value };
}
pub(super) use settings;

/// An enum whose variants have names in the configuration.
pub(super) trait WordEnum: Copy + PartialEq + 'static {
    /// All of them, in the order in which messages list them.
    const WORDS: &'static [(&'static str, Self)];
}

/// Declares an enum whose variants have names in the configuration.
macro_rules! words {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)*
        }
    ) => {
        $(#[$meta])*
        pub enum $name {
            $($(#[$variant_meta])* $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: [Self; [$($word),*].len()] = [$(Self::$variant),*];

            /// The name in the configuration.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl $crate::config::keys::WordEnum for $name {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$variant)),*];
        }
    };
}
pub(super) use words;
