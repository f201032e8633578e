// HTTP/2 server without TLS on node:http2. Arguments: NAME LOG PORT...; says in LOG where it listens and what it was asked.
// What is posted to /echo comes back, with its length said.
import { appendFileSync } from "node:fs";
import { createServer } from "node:http2";

const [name, log, ...ports] = process.argv.slice(2);
const say = (line) => appendFileSync(log, line + "\n");

for (const port of ports) {
  const server = createServer();
  server.on("stream", (stream, headers) => {
    // Taken now: when the request's end has been read, the connection may have gone.
    const { remoteAddress, localPort } = stream.session.socket;
    let size = 0;
    const echo = headers[":path"] === "/echo" ? [] : null;
    stream.on("error", () => {});
    stream.on("data", (chunk) => {
      size += chunk.length;
      echo?.push(chunk);
    });
    stream.on("end", () => {
      const user = headers["x-user"] ?? "";
      say(`request ${headers[":method"]} ${headers[":path"]} peer=${remoteAddress} local=${localPort} body=${size} user=${user}`);
      if (stream.destroyed) return;
      const length = echo ? { "content-length": size } : {};
      stream.respond({ ":status": 200, "x-program": name, ...length }, { waitForTrailers: true });
      stream.on("wantTrailers", () => stream.sendTrailers({ "x-trailer": name }));
      stream.end(echo ? Buffer.concat(echo) : `program ${name} ${headers[":method"]} ${headers[":path"]} body=${size}\n`);
    });
  });
  server.listen(Number(port), () => say(`listening ${server.address().port}`));
}
