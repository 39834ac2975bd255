-- wrk's script: arguments "post SIZE", "close" and "requests FILE", and the summary as one line of
-- JSON. The requests of a file, each ended with NUL, are sent as they are, one after the other.

local function send_each(requests)
    local at = 0
    -- global: wrk asks it for each request
    function request()
        at = at % #requests + 1
        return requests[at]
    end
end

function init(arguments)
    local previous
    for _, argument in ipairs(arguments) do
        if argument == "close" then wrk.headers["Connection"] = "close" end
        if previous == "post" then
            wrk.method = "POST"
            wrk.body = string.rep("x", tonumber(argument))
        end
        if previous == "requests" then
            local requests = {}
            for text in io.open(argument, "rb"):read("*a"):gmatch("%Z+") do
                requests[#requests + 1] = text
            end
            send_each(requests)
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
