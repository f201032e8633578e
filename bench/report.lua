-- Makes wrk print one line that a program can read: requests, microseconds, p50, p99 (microseconds), errors.
function done(summary, latency)
    local errors = summary.errors
    io.write(string.format("report %d %d %d %d %d\n", summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
        errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
