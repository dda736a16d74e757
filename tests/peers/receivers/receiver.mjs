// Node's form parsers and its JSON as endpoints: POST /PARSER. Argument: the folder of their modules. Prints the port that it listens on.
// `GET /got` says what the last request was: {fields: {name: [text]}, or tree, and files} or {json}. A parser's error is a 500 with its text.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { readFile } from "node:fs/promises";

const require = createRequire(process.argv[2] + "/");
const busboy = require("busboy");
const multer = require("multer");
const formidable = require("formidable").default;
const { Response } = require("undici");
const SIZE = 64 * 1024 * 1024;

const octetsOf = async (request) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks);
};

const add = (fields, name, value) => (fields[name] ??= []).push(value);

const parsers = {
  busboy: (request) =>
    new Promise((resolve, reject) => {
      const got = { fields: {}, files: [] };
      const form = busboy({ headers: request.headers, defParamCharset: "utf8", limits: { fieldSize: SIZE } });
      form.on("field", (name, value, info) => {
        if (info.valueTruncated || info.nameTruncated) reject(new Error(`${name} is truncated`));
        add(got.fields, name, value);
      });
      form.on("file", (name, stream, info) => {
        const file = { name, file_name: info.filename, type: info.mimeType };
        got.files.push(file);
        octetsOf(stream).then((octets) => (file.content = octets.toString("base64")), reject);
      });
      form.on("error", reject);
      form.on("close", () => resolve(got));
      request.pipe(form);
    }),

  multer: (request) =>
    new Promise((resolve, reject) => {
      const upload = multer({ limits: { fieldSize: SIZE }, defParamCharset: "utf8" });
      upload.any()(request, {}, (error) => {
        if (error) return reject(error);
        const file = (file) => ({
          name: file.fieldname,
          file_name: file.originalname,
          type: file.mimetype,
          content: file.buffer.toString("base64"),
        });
        resolve({ tree: request.body, files: request.files.map(file) });
      });
    }),

  formidable: async (request) => {
    const form = formidable({ maxFields: 100_000, maxFieldsSize: SIZE, allowEmptyFiles: true, minFileSize: 0 });
    const [fields, files] = await form.parse(request);
    const got = { fields, files: [] };
    for (const file of Object.entries(files).flatMap(([name, list]) => list.map((file) => ({ name, file }))))
      got.files.push({
        name: file.name,
        file_name: file.file.originalFilename,
        type: file.file.mimetype,
        content: (await readFile(file.file.filepath)).toString("base64"),
      });
    return got;
  },

  undici: async (request) => {
    const form = await new Response(await octetsOf(request), { headers: request.headers }).formData();
    const got = { fields: {}, files: [] };
    for (const [name, value] of form) {
      if (typeof value === "string") add(got.fields, name, value);
      else
        got.files.push({
          name,
          file_name: value.name,
          type: value.type,
          content: Buffer.from(await value.arrayBuffer()).toString("base64"),
        });
    }
    return got;
  },

  json: async (request) => ({ json: JSON.parse((await octetsOf(request)).toString("utf8")) }),
};

let got = null;
const server = createServer(async (request, response) => {
  const say = (status, type, body) => response.writeHead(status, type ? { "Content-Type": type } : {}).end(body);
  if (request.method === "GET") return say(200, "application/json", JSON.stringify(got));
  try {
    got = await parsers[request.url.slice(1)](request);
    say(204);
  } catch (error) {
    say(500, "text/plain", `${request.url}: ${error}`);
  }
});
server.listen(0, "127.0.0.1", () => console.log(`listening on ${server.address().port}`));
