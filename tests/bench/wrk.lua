-- wrk's script: arguments "post SIZE" and "close", and the summary as one line of JSON.

function init(arguments)
    local previous
    for _, argument in ipairs(arguments) do
        if argument == "close" then wrk.headers["Connection"] = "close" end
        if previous == "post" then
            wrk.method = "POST"
            wrk.body = string.rep("x", tonumber(argument))
        end
        previous = argument
    end
end

function done(summary, latency)
    local e = summary.errors
    io.write(string.format(
        '{"requests":%d,"seconds":%.6f,"bytes":%d,"p50_us":%.1f,"p99_us":%.1f,' ..
        '"errors":{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\n',
        summary.requests, summary.duration / 1e6, summary.bytes,
        latency:percentile(50), latency:percentile(99),
        e.connect, e.read, e.write, e.status, e.timeout))
end
