//! The functions of all libraries, as a table of text: name, then each way to call it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use crate::types::Type;

/// One way to call a function.
#[derive(Debug)]
pub(crate) struct Overload {
    /// Whether the first argument stands before the dot.
    pub method: bool,
    pub args: Vec<Type>,
    pub result: Type,
    /// Whether there are parameters to make free types of.
    pub generic: bool,
}

/// Functions by name. A line is `name: call; call …`; a call `.(A, B) C` is a method's, its first argument the target.
/// One capital letter is a parameter; `*x` stands for each type that can be ordered.
const TABLE: &str = "
_?_:_: (bool, A, A) A
_&&_: (bool, bool) bool
_||_: (bool, bool) bool
!_: (bool) bool
@not_strictly_false: (bool) bool
_==_: (A, A) bool
_!=_: (A, A) bool
_+_: (bytes, bytes) bytes; (double, double) double; (duration, duration) duration; (duration, timestamp) timestamp; (timestamp, duration) timestamp; (int, int) int; (list(A), list(A)) list(A); (string, string) string; (uint, uint) uint
_/_: (double, double) double; (int, int) int; (uint, uint) uint
_%_: (int, int) int; (uint, uint) uint
_*_: (double, double) double; (int, int) int; (uint, uint) uint
-_: (double) double; (int) int
_-_: (double, double) double; (duration, duration) duration; (int, int) int; (timestamp, duration) timestamp; (timestamp, timestamp) duration; (uint, uint) uint
_<_: <
_<=_: <
_>_: <
_>=_: <
_[_]: (list(A), int) A; (map(A, B), A) B; (optional(list(V)), int) optional(V); (optional(map(K, V)), K) optional(V)
_[?_]: (list(V), int) optional(V); (optional(list(V)), int) optional(V); (map(K, V), K) optional(V); (optional(map(K, V)), K) optional(V)
_?._: (dyn, string) optional(V)
@in: (A, list(A)) bool; (A, map(A, B)) bool
size: (bytes) int; .(bytes) int; (list(A)) int; .(list(A)) int; (map(A, B)) int; .(map(A, B)) int; (string) int; .(string) int
type: (A) type(A)
bool: (bool) bool; (string) bool
bytes: (bytes) bytes; (string) bytes
double: (double) double; (int) double; (string) double; (uint) double
duration: (duration) duration; (int) duration; (string) duration
dyn: (A) dyn
int: (int) int; (double) int; (duration) int; (string) int; (timestamp) int; (uint) int
string: (string) string; (bool) string; (bytes) string; (double) string; (duration) string; (int) string; (timestamp) string; (uint) string; (net.IP) string; (net.CIDR) string
timestamp: (timestamp) timestamp; (int) timestamp; (string) timestamp
uint: (uint) uint; (double) uint; (int) uint; (string) uint
contains: .(string, string) bool
endsWith: .(string, string) bool
startsWith: .(string, string) bool
matches: (string, string) bool; .(string, string) bool
getFullYear: .(timestamp) int; .(timestamp, string) int
getMonth: .(timestamp) int; .(timestamp, string) int
getDayOfYear: .(timestamp) int; .(timestamp, string) int
getDayOfMonth: .(timestamp) int; .(timestamp, string) int
getDate: .(timestamp) int; .(timestamp, string) int
getDayOfWeek: .(timestamp) int; .(timestamp, string) int
getHours: .(timestamp) int; .(timestamp, string) int; .(duration) int
getMinutes: .(timestamp) int; .(timestamp, string) int; .(duration) int
getSeconds: .(timestamp) int; .(timestamp, string) int; .(duration) int
getMilliseconds: .(timestamp) int; .(timestamp, string) int; .(duration) int
cel.@mapInsert: (map(K, V), map(K, V)) map(K, V); (map(K, V), K, V) map(K, V)
charAt: .(string, int) string
indexOf: .(string, string) int; .(string, string, int) int; .(list(A), A) int
lastIndexOf: .(string, string) int; .(string, string, int) int; .(list(A), A) int
lowerAscii: .(string) string
upperAscii: .(string) string
replace: .(string, string, string) string; .(string, string, string, int) string
split: .(string, string) list(string); .(string, string, int) list(string)
substring: .(string, int) string; .(string, int, int) string
trim: .(string) string
format: .(string, list(dyn)) string
strings.quote: (string) string
join: .(list(string)) string; .(list(string), string) string
slice: .(list(T), int, int) list(T)
flatten: .(list(list(T))) list(T); .(list(dyn), int) list(dyn)
sort: sort
@sortByAssociatedKeys: sortby
lists.range: (int) list(int)
reverse: .(list(T)) list(T)
distinct: .(list(T)) list(T)
sets.contains: (list(T), list(T)) bool
sets.equivalent: (list(T), list(T)) bool
sets.intersects: (list(T), list(T)) bool
isSorted: .(list(int)) bool; .(list(uint)) bool; .(list(double)) bool; .(list(bool)) bool; .(list(duration)) bool; .(list(timestamp)) bool; .(list(string)) bool; .(list(bytes)) bool
sum: .(list(int)) int; .(list(uint)) uint; .(list(double)) double; .(list(duration)) duration
min: extreme
max: extreme
find: .(string, string) string
findAll: .(string, string) list(string); .(string, string, int) list(string)
optional.of: (V) optional(V)
optional.ofNonZeroValue: (V) optional(V)
optional.none: () optional(V)
value: .(optional(V)) V
hasValue: .(optional(V)) bool
or: .(optional(V), optional(V)) optional(V)
orValue: .(optional(V), V) V
first: .(list(V)) optional(V)
last: .(list(V)) optional(V)
optional.unwrap: (list(optional(V))) list(V)
unwrapOpt: .(list(optional(V))) list(V)
url: (string) kubernetes.URL
isURL: (string) bool
getScheme: .(kubernetes.URL) string
getHost: .(kubernetes.URL) string
getHostname: .(kubernetes.URL) string
getPort: .(kubernetes.URL) string
getEscapedPath: .(kubernetes.URL) string
getQuery: .(kubernetes.URL) map(string, list(string))
quantity: (string) kubernetes.Quantity
isQuantity: (string) bool
sign: (kubernetes.Quantity) int
isGreaterThan: .(kubernetes.Quantity, kubernetes.Quantity) bool; .(kubernetes.Semver, kubernetes.Semver) bool
isLessThan: .(kubernetes.Quantity, kubernetes.Quantity) bool; .(kubernetes.Semver, kubernetes.Semver) bool
compareTo: .(kubernetes.Quantity, kubernetes.Quantity) int; .(kubernetes.Semver, kubernetes.Semver) int
asApproximateFloat: .(kubernetes.Quantity) double
asInteger: .(kubernetes.Quantity) int
isInteger: .(kubernetes.Quantity) bool
add: .(kubernetes.Quantity, kubernetes.Quantity) kubernetes.Quantity; .(kubernetes.Quantity, int) kubernetes.Quantity
sub: .(kubernetes.Quantity, kubernetes.Quantity) kubernetes.Quantity; .(kubernetes.Quantity, int) kubernetes.Quantity
semver: (string) kubernetes.Semver; (string, bool) kubernetes.Semver
isSemver: (string) bool; (string, bool) bool
major: .(kubernetes.Semver) int
minor: .(kubernetes.Semver) int
patch: .(kubernetes.Semver) int
ip: (string) net.IP; .(net.CIDR) net.IP
isIP: (string) bool
ip.isCanonical: (string) bool
family: .(net.IP) int
isUnspecified: .(net.IP) bool
isLoopback: .(net.IP) bool
isLinkLocalMulticast: .(net.IP) bool
isLinkLocalUnicast: .(net.IP) bool
isGlobalUnicast: .(net.IP) bool
cidr: (string) net.CIDR
isCIDR: (string) bool
containsIP: .(net.CIDR, string) bool; .(net.CIDR, net.IP) bool
containsCIDR: .(net.CIDR, string) bool; .(net.CIDR, net.CIDR) bool
prefixLength: .(net.CIDR) int
masked: .(net.CIDR) net.CIDR
format.named: (string) optional(kubernetes.NamedFormat)
validate: .(kubernetes.NamedFormat, string) optional(list(string))
format.dns1123Label: () kubernetes.NamedFormat
format.dns1123Subdomain: () kubernetes.NamedFormat
format.dns1035Label: () kubernetes.NamedFormat
format.qualifiedName: () kubernetes.NamedFormat
format.dns1123LabelPrefix: () kubernetes.NamedFormat
format.dns1123SubdomainPrefix: () kubernetes.NamedFormat
format.dns1035LabelPrefix: () kubernetes.NamedFormat
format.labelValue: () kubernetes.NamedFormat
format.uri: () kubernetes.NamedFormat
format.uuid: () kubernetes.NamedFormat
format.byte: () kubernetes.NamedFormat
format.date: () kubernetes.NamedFormat
format.datetime: () kubernetes.NamedFormat
path: .(kubernetes.authorization.Authorizer, string) kubernetes.authorization.PathCheck
group: .(kubernetes.authorization.Authorizer, string) kubernetes.authorization.GroupCheck
serviceAccount: .(kubernetes.authorization.Authorizer, string, string) kubernetes.authorization.Authorizer
resource: .(kubernetes.authorization.GroupCheck, string) kubernetes.authorization.ResourceCheck
subresource: .(kubernetes.authorization.ResourceCheck, string) kubernetes.authorization.ResourceCheck
namespace: .(kubernetes.authorization.ResourceCheck, string) kubernetes.authorization.ResourceCheck
name: .(kubernetes.authorization.ResourceCheck, string) kubernetes.authorization.ResourceCheck
fieldSelector: .(kubernetes.authorization.ResourceCheck, string) kubernetes.authorization.ResourceCheck
labelSelector: .(kubernetes.authorization.ResourceCheck, string) kubernetes.authorization.ResourceCheck
check: .(kubernetes.authorization.PathCheck, string) kubernetes.authorization.Decision; .(kubernetes.authorization.ResourceCheck, string) kubernetes.authorization.Decision
errored: .(kubernetes.authorization.Decision) bool
error: .(kubernetes.authorization.Decision) string
allowed: .(kubernetes.authorization.Decision) bool
reason: .(kubernetes.authorization.Decision) string
jsonpatch.escapeKey: (string) string
";

/// Types of libraries, which are plain names.
pub(crate) const NAMED: [&str; 11] = [
    "kubernetes.URL",
    "kubernetes.Quantity",
    "kubernetes.Semver",
    "kubernetes.NamedFormat",
    "net.IP",
    "net.CIDR",
    "kubernetes.authorization.Authorizer",
    "kubernetes.authorization.PathCheck",
    "kubernetes.authorization.GroupCheck",
    "kubernetes.authorization.ResourceCheck",
    "kubernetes.authorization.Decision",
];

const ORDERED: [&str; 8] = ["int", "uint", "double", "bool", "duration", "timestamp", "string", "bytes"];

static FUNCTIONS: LazyLock<HashMap<&'static str, Vec<Overload>>> = LazyLock::new(|| {
    TABLE
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, calls)| (name, overloads(calls)))
        .collect()
});

/// A function by its full name.
pub(crate) fn function(name: &str) -> Option<(&'static str, &'static [Overload])> {
    FUNCTIONS.get_key_value(name).map(|(name, overloads)| (*name, overloads.as_slice()))
}

fn overloads(calls: &str) -> Vec<Overload> {
    let each = |form: &str| ORDERED.map(|t| overload(&form.replace('*', t))).into_iter().collect();
    match calls {
        "<" => {
            let mut all: Vec<Overload> = each("(*, *) bool");
            for (a, b) in [
                ("int", "double"),
                ("int", "uint"),
                ("uint", "double"),
                ("uint", "int"),
                ("double", "int"),
                ("double", "uint"),
            ] {
                all.push(overload(&format!("({a}, {b}) bool")));
            }
            all
        }
        "sort" => each(".(list(*)) list(*)"),
        "sortby" => each(".(list(T), list(*)) list(T)"),
        "extreme" => each(".(list(*)) *"),
        calls => calls.split("; ").map(overload).collect(),
    }
}

fn overload(text: &str) -> Overload {
    let method = text.starts_with('.');
    let mut reader = Reader { rest: text.trim_start_matches('.') };
    let args = reader.args();
    let result = reader.ty();
    let generic = args.iter().any(has_param) || has_param(&result);
    Overload { method, args, result, generic }
}

fn has_param(of: &Type) -> bool {
    match of {
        Type::Param(_) => true,
        Type::List(of) | Type::Optional(of) | Type::Type(Some(of)) => has_param(of),
        Type::Map(of) => has_param(&of.0) || has_param(&of.1),
        _ => false,
    }
}

/// Reads types of the table.
struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn args(&mut self) -> Vec<Type> {
        let mut args = Vec::new();
        self.rest = self.rest.trim_start().strip_prefix('(').unwrap_or(self.rest);
        while !self.rest.starts_with(')') && !self.rest.is_empty() {
            args.push(self.ty());
            self.rest = self.rest.trim_start_matches([',', ' ']);
        }
        self.rest = self.rest.strip_prefix(')').unwrap_or(self.rest);
        args
    }

    fn ty(&mut self) -> Type {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(['(', ')', ',']).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        let mut chars = name.chars();
        if let (Some(c @ 'A'..='Z'), None) = (chars.next(), chars.next()) {
            return Type::Param(c);
        }
        if matches!(name, "list" | "map" | "optional" | "type") {
            let mut of = self.args().into_iter();
            let (first, second) = (of.next().unwrap_or(Type::Dyn), of.next().unwrap_or(Type::Dyn));
            return match name {
                "list" => Type::list(first),
                "map" => Type::map(first, second),
                "optional" => Type::optional(first),
                _ => Type::Type(Some(Arc::new(first))),
            };
        }
        plain(name).unwrap_or(Type::Error)
    }
}

/// A type without parts by its name.
pub(crate) fn plain(name: &str) -> Option<Type> {
    Some(match name {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "dyn" => Type::Dyn,
        "timestamp" | "google.protobuf.Timestamp" => Type::Timestamp,
        "duration" | "google.protobuf.Duration" => Type::Duration,
        "null_type" => Type::Null,
        name => return NAMED.iter().find(|n| **n == name).map(|n| Type::Named(n)),
    })
}
