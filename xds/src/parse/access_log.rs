//! Access logs and formats.

use std::sync::Arc;

use trireme_proxy_decide::config::{AccessLog, AccessLogFormat, AccessLogSink};
use trireme_proxy_decide::format::Format;

use super::refusal::{At, Outcome, each, reason, refused, unsupported};
use super::value::inline;
use crate::pb::envoy::config::accesslog::v3 as proto;
use crate::pb::envoy::config::core::v3 as core;
use crate::pb::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use crate::pb::envoy::extensions::access_loggers::stream::v3::{
    StderrAccessLog, StdoutAccessLog, stderr_access_log, stdout_access_log,
};
use crate::pb::google::protobuf as google;
use crate::{type_url, unpack};

/// Of connections that no chain took, at a listener: what Istio filters by flag NR is all of them.
pub(super) fn of_listener(field: &str, logs: &[proto::AccessLog]) -> Outcome<Vec<AccessLog>> {
    each(field, logs, |log| {
        use proto::access_log_filter::FilterSpecifier;
        let filter = log
            .filter
            .as_ref()
            .and_then(|filter| filter.filter_specifier.as_ref());
        let unmatched = match filter {
            None => true,
            Some(FilterSpecifier::ResponseFlagFilter(filter)) => filter.flags == ["NR"],
            Some(_) => false,
        };
        unsupported(!unmatched, "filter")?;
        access_log(log)
    })
}

pub(super) fn access_logs(field: &str, logs: &[proto::AccessLog]) -> Outcome<Vec<AccessLog>> {
    each(field, logs, |log| {
        unsupported(log.filter.is_some(), "filter")?;
        access_log(log)
    })
}

fn access_log(log: &proto::AccessLog) -> Outcome<AccessLog> {
    let Some(proto::access_log::ConfigType::TypedConfig(any)) = &log.config_type else {
        return Err(refused("typed_config", "must be given"));
    };
    let url = any.type_url.as_str();
    let log = if url == type_url::<FileAccessLog>() {
        file(&unpack(any).at("typed_config")?)
    } else if url == type_url::<StdoutAccessLog>() {
        let log: StdoutAccessLog = unpack(any).at("typed_config")?;
        let format = log.access_log_format.as_ref().map(|format| match format {
            stdout_access_log::AccessLogFormat::LogFormat(format) => format,
        });
        formatted(AccessLogSink::Stdout, format)
    } else if url == type_url::<StderrAccessLog>() {
        let log: StderrAccessLog = unpack(any).at("typed_config")?;
        let format = log.access_log_format.as_ref().map(|format| match format {
            stderr_access_log::AccessLogFormat::LogFormat(format) => format,
        });
        formatted(AccessLogSink::Stderr, format)
    } else {
        Err(reason(format!(
            "access loggers of type {url} are not supported by this proxy"
        )))
    };
    log.at("typed_config")
}

fn file(log: &FileAccessLog) -> Outcome<AccessLog> {
    let sink = match log.path.as_str() {
        "" => return Err(refused("path", "must not be empty")),
        "/dev/stdout" => AccessLogSink::Stdout,
        "/dev/stderr" => AccessLogSink::Stderr,
        path => AccessLogSink::File(path.into()),
    };
    #[allow(deprecated)]
    let format = match &log.access_log_format {
        None => AccessLogFormat::Default,
        Some(file_access_log::AccessLogFormat::Format(text)) if text.is_empty() => {
            AccessLogFormat::Default
        }
        Some(file_access_log::AccessLogFormat::Format(text)) => {
            AccessLogFormat::Text(Format::parse(text).map_err(|error| refused("format", error))?)
        }
        Some(file_access_log::AccessLogFormat::JsonFormat(fields)) => {
            json(fields).at("json_format")?
        }
        Some(file_access_log::AccessLogFormat::TypedJsonFormat(fields)) => {
            json(fields).at("typed_json_format")?
        }
        Some(file_access_log::AccessLogFormat::LogFormat(format)) => {
            substitution(format).at("log_format")?
        }
    };
    Ok(AccessLog { sink, format })
}

fn formatted(
    sink: AccessLogSink,
    format: Option<&core::SubstitutionFormatString>,
) -> Outcome<AccessLog> {
    let format = match format {
        Some(format) => substitution(format).at("log_format")?,
        None => AccessLogFormat::Default,
    };
    Ok(AccessLog { sink, format })
}

fn substitution(format: &core::SubstitutionFormatString) -> Outcome<AccessLogFormat> {
    use core::substitution_format_string::Format as Proto;
    unsupported(!format.formatters.is_empty(), "formatters")?;
    #[allow(deprecated)]
    match &format.format {
        Some(Proto::JsonFormat(fields)) => json(fields).at("json_format"),
        Some(Proto::TextFormat(_) | Proto::TextFormatSource(_)) => {
            Ok(AccessLogFormat::Text(text(format)?))
        }
        None => Err(reason("must have a format")),
    }
}

/// A format that makes one text.
pub(super) fn text(format: &core::SubstitutionFormatString) -> Outcome<Format> {
    use core::substitution_format_string::Format as Proto;
    #[allow(deprecated)]
    let text = match &format.format {
        Some(Proto::TextFormat(text)) => text.clone(),
        Some(Proto::TextFormatSource(source)) => {
            let bytes = inline(source).at("text_format_source")?;
            String::from_utf8(bytes.to_vec())
                .map_err(|_| refused("text_format_source", "must be UTF-8"))?
        }
        Some(Proto::JsonFormat(_)) => {
            return Err(refused(
                "json_format",
                "is not supported here by this proxy",
            ));
        }
        None => return Err(reason("must have a format")),
    };
    Format::parse(&text).map_err(|error| refused("text_format", error))
}

/// Envoy writes the members in the order of their keys.
fn json(fields: &google::Struct) -> Outcome<AccessLogFormat> {
    let mut members = Vec::with_capacity(fields.fields.len());
    for (name, value) in &fields.fields {
        let Some(google::value::Kind::StringValue(text)) = &value.kind else {
            return Err(refused(
                name,
                "must be text; nested objects are not supported by this proxy",
            ));
        };
        let format = Format::parse(text).map_err(|error| refused(name, error))?;
        members.push((Arc::from(name.as_str()), format));
    }
    members.sort_by(|one: &(Arc<str>, Format), other| one.0.cmp(&other.0));
    Ok(AccessLogFormat::Json(members))
}
