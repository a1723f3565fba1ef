//! Access logs as MeshConfig asks for them.

use trireme_xds::metadata::{Fields, string};

use crate::mesh_config::MeshConfig;
use crate::proto::{accesslog, core, extensions};

use extensions::access_loggers::file::v3 as file;

/// Istio's format where none is written.
pub const TEXT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
\"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% \
%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// The same as fields.
const JSON_FIELDS: [(&str, &str); 24] = [
    ("start_time", "%START_TIME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    (
        "connection_termination_details",
        "%CONNECTION_TERMINATION_DETAILS%",
    ),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    (
        "upstream_service_time",
        "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    ),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    (
        "upstream_transport_failure_reason",
        "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    ),
];

/// One log or none.
pub fn access_logs(mesh: &MeshConfig) -> Vec<accesslog::AccessLog> {
    use core::substitution_format_string::Format;
    if mesh.access_log_file.is_empty() {
        return Vec::new();
    }
    let custom = mesh.access_log_format.as_str();
    let json = mesh.access_log_encoding.eq_ignore_ascii_case("JSON");
    let format = match (json, custom) {
        (false, "") => text(TEXT_FORMAT),
        (false, custom) => text(custom),
        (true, custom) => {
            let written: Option<std::collections::BTreeMap<String, serde_json::Value>> =
                serde_json::from_str(custom).ok();
            let mut fields = Fields::new();
            match &written {
                Some(written) => {
                    for (name, value) in written {
                        let value = value
                            .as_str()
                            .map_or_else(|| value.to_string(), str::to_owned);
                        fields.set(name, string(&value));
                    }
                }
                None => {
                    for (name, value) in JSON_FIELDS {
                        fields.set(name, string(value));
                    }
                }
            }
            Format::JsonFormat(fields.into_struct())
        }
    };
    let config = file::FileAccessLog {
        path: mesh.access_log_file.clone(),
        access_log_format: Some(file::file_access_log::AccessLogFormat::LogFormat(
            core::SubstitutionFormatString {
                format: Some(format),
                ..core::SubstitutionFormatString::default()
            },
        )),
    };
    vec![accesslog::AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        config_type: Some(accesslog::access_log::ConfigType::TypedConfig(
            trireme_xds::pack(&config),
        )),
        ..accesslog::AccessLog::default()
    }]
}

fn text(format: &str) -> core::substitution_format_string::Format {
    use core::data_source::Specifier;
    let mut format = format.to_owned();
    if !format.ends_with('\n') {
        format.push('\n');
    }
    core::substitution_format_string::Format::TextFormatSource(core::DataSource {
        specifier: Some(Specifier::InlineString(format)),
        ..core::DataSource::default()
    })
}
