//! Content types that are worth compressing. What is compressed already (images, video, archives, woff) is not here.

/// Beside `text/*` and the suffixes.
const TYPES: [&str; 35] = [
    "application/ecmascript",
    "application/graphql",
    "application/javascript",
    "application/json",
    "application/json-seq",
    "application/jsonl",
    "application/ndjson",
    "application/rtf",
    "application/sql",
    "application/toml",
    "application/vnd.apple.mpegurl",
    "application/vnd.ms-fontobject",
    "application/wasm",
    "application/x-font-opentype",
    "application/x-font-otf",
    "application/x-font-truetype",
    "application/x-font-ttf",
    "application/x-javascript",
    "application/x-json",
    "application/x-mpegurl",
    "application/x-ndjson",
    "application/x-perl",
    "application/x-sh",
    "application/x-yaml",
    "application/xml",
    "application/xml-dtd",
    "application/yaml",
    "font/collection",
    "font/otf",
    "font/sfnt",
    "font/ttf",
    "image/bmp",
    "image/vnd.microsoft.icon",
    "image/x-icon",
    "image/x-ms-bmp",
];
/// Of a structured syntax (RFC 6838 §4.2.8), such as `image/svg+xml` and `application/problem+json`.
const SUFFIXES: [&str; 4] = ["+json", "+xml", "+yaml", "+text"];
/// Whatever its suffix: gRPC compresses its messages itself.
const GRPC: &str = "application/grpc";

/// Whether a `Content-Type` is one of them; parameters say nothing here.
pub fn is_compressible(content_type: &[u8]) -> bool {
    let name = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let starts = |with: &str| name.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()));
    let ends = |with: &&str| {
        let start = name.len().checked_sub(with.len());
        start.is_some_and(|start| name[start..].eq_ignore_ascii_case(with.as_bytes()))
    };
    if starts("text/") {
        return name.len() > "text/".len();
    }
    if starts(GRPC) {
        return false;
    }
    TYPES.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes())) || SUFFIXES.iter().any(ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_all_its_forms_is_compressed() {
        for kind in [
            "text/html",
            "TEXT/HTML; charset=utf-8",
            " text/plain ",
            "text/event-stream",
            "application/json",
            "application/json;charset=utf-8",
            "application/problem+json",
            "application/vnd.api+json",
            "image/svg+xml",
            "Application/XHTML+XML",
            "application/javascript",
            "application/wasm",
            "font/ttf",
            "image/x-icon",
            "font/sfnt",
        ] {
            assert!(is_compressible(kind.as_bytes()), "{kind}");
        }
    }

    #[test]
    fn what_is_compressed_already_is_not() {
        for kind in [
            "",
            "text/",
            "text",
            "image/png",
            "image/jpeg",
            "video/mp4",
            "font/woff2",
            "application/zip",
            "application/gzip",
            "application/pdf",
            "application/octet-stream",
            "application/grpc",
            "application/grpc+json",
            "application/grpc-web+proto",
            "application/jsonx",
            "multipart/form-data; boundary=+json",
            "+jso",
        ] {
            assert!(!is_compressible(kind.as_bytes()), "{kind}");
        }
    }
}
