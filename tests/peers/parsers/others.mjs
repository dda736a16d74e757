// What Node's parsers make of messages: JSON by the file's name. Arguments: the folder of their modules, the folder of the messages.
import { createRequire } from "node:module";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const [modules, folder] = process.argv.slice(2);
const require = createRequire(modules + "/");
const { simpleParser } = require("mailparser");
const PostalMime = (await import(require.resolve("postal-mime"))).default;

// Some change line ends, or keep the one before a delimiter.
const hash = (content) => createHash("sha256").update(Buffer.from(content ?? "").toString("latin1").replace(/\r/g, "").replace(/[ \t]+(?=\n)/g, "").replace(/[\t\n\v\f \xa0]+$/, ""), "latin1").digest("hex");
const addresses = (list) => (list ?? []).flatMap((entry) => (entry.group ? addresses(entry.group) : [entry.address ?? ""]));

const parsers = {
  mailparser: async (octets) => {
    const mail = await simpleParser(octets, { skipHtmlToText: true, skipTextToHtml: true, skipImageLinks: true, skipTextLinks: true });
    return {
      subject: mail.subject ?? "",
      from: addresses(mail.from?.value),
      plain: mail.text ?? "",
      html: mail.html || "",
      attachments: mail.attachments.map((file) => ({ name: file.filename ?? "", type: file.contentType, hash: hash(file.content) })),
    };
  },
  "postal-mime": async (octets) => {
    const mail = await PostalMime.parse(octets, { forceRfc822Attachments: true, attachmentEncoding: "arraybuffer", maxNestingDepth: 256 });
    return {
      subject: mail.subject ?? "",
      from: addresses(mail.from ? [mail.from] : []),
      plain: mail.text ?? "",
      html: mail.html ?? "",
      attachments: mail.attachments.map((file) => ({ name: file.filename ?? "", type: file.mimeType, hash: hash(file.content) })),
    };
  },
};

const read = {};
for (const name of readdirSync(folder).filter((name) => name.endsWith(".eml"))) {
  const octets = readFileSync(join(folder, name));
  read[name] = {};
  for (const [parser, parse] of Object.entries(parsers)) read[name][parser] = await parse(octets).catch((error) => ({ error: String(error) }));
}
console.log(JSON.stringify(read));
