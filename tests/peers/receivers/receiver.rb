# Rack's form parser and Ruby's JSON as endpoints: POST /PARSER. Prints the port that it listens on. `GET /got` says what the last request was:
# {tree, files} with each text in base64, since Rack keeps octets, or {json}. A parser's error is a 500 with its text.
require "json"
require "rack"
require "rack/handler/webrick"

$got = nil

def encoded(value)
  case value
  when Hash then value.transform_values { |value| encoded(value) }
  when Array then value.map { |value| encoded(value) }
  else [value.to_s].pack("m0")
  end
end

PARSERS = {
  "/rack" => lambda do |request|
    form = request.POST
    files = Array(form.delete("attachments")).map do |file|
      { name: file[:name], file_name: file[:filename], type: file[:type], content: [file[:tempfile].read].pack("m0") }
    end
    { tree: encoded(form), files: files, octets: true }
  end,
  "/json" => ->(request) { { json: JSON.parse(request.body.read) } }
}

APPLICATION = lambda do |env|
  request = Rack::Request.new(env)
  return [200, { "Content-Type" => "application/json" }, [JSON.generate($got)]] if request.get?
  $got = PARSERS.fetch(request.path).call(request)
  [204, {}, []]
rescue StandardError => error
  [500, { "Content-Type" => "text/plain" }, ["#{env["PATH_INFO"]}: #{error.inspect}"]]
end

Rack::Utils.multipart_part_limit = Rack::Utils.multipart_total_part_limit = 100_000
quiet = WEBrick::Log.new($stderr, WEBrick::Log::ERROR)
Rack::Handler::WEBrick.run(APPLICATION, Host: "127.0.0.1", Port: 0, Logger: quiet, AccessLog: []) do |server|
  puts "listening on #{server.listeners[0].addr[1]}"
  $stdout.flush
end
