// An endpoint on Node's http that says what it got. Argument: a port.
import { createHash } from "node:crypto";
import { createServer } from "node:http";

const digest = (octets) => createHash("sha256").update(octets).digest("hex");

// The parts of a form, cut at its boundary: a parser with limits of its own would be another peer.
function parts(body, boundary) {
  const found = [];
  const delimiter = Buffer.from(`\r\n--${boundary}`);
  let at = body.indexOf(delimiter.subarray(2)) + delimiter.length - 2;
  for (;;) {
    const end = body.indexOf(delimiter, at);
    if (end < 0) return found;
    const blank = body.indexOf("\r\n\r\n", at);
    const name = /name="([^"]*)"/.exec(body.toString("utf8", at, blank))[1];
    found.push([name, body.subarray(blank + 4, end)]);
    at = end + delimiter.length;
  }
}

function told(headers, body) {
  const type = headers["content-type"];
  if (type.startsWith("application/json")) {
    const { envelope, attachments } = JSON.parse(body.toString());
    return [envelope.recipients, Buffer.concat(attachments.map((attachment) => Buffer.from(attachment.content, "base64")))];
  }
  if (type.startsWith("multipart/form-data")) {
    const form = parts(body, /boundary="?([^";]+)/.exec(type)[1]);
    const of = (wanted) => form.filter(([name]) => wanted(name)).map(([, value]) => value);
    const content = of((name) => name === "attachments[]" || name === "message");
    return [of((name) => name.startsWith("envelope[recipients]")).map(String), Buffer.concat(content)];
  }
  if (headers["mailsluice-rcpt-to"]) return [headers["mailsluice-rcpt-to"].split(","), body];
  const recipients = [];
  const field = "X-Original-To: ";
  let rest = body;
  while (rest.toString("latin1", 0, field.length) === field) {
    const end = rest.indexOf("\r\n");
    recipients.push(rest.toString("utf8", field.length, end));
    rest = rest.subarray(end + 2);
  }
  return [recipients, rest];
}

createServer((request, response) => {
  const pieces = [];
  request.on("data", (piece) => pieces.push(piece));
  request.on("end", () => {
    const [recipients, content] = told(request.headers, Buffer.concat(pieces));
    response.setHeader("Content-Type", "application/json");
    response.end(JSON.stringify({ recipients: digest(recipients.join("\n")), content: digest(content) }));
  });
}).listen(Number(process.argv[2]), "127.0.0.1");
