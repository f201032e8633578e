// Web server on node:http. Arguments: NAME LOG PORT...; says in LOG where it listens and what it was asked.
import { appendFileSync } from "node:fs";
import { createServer } from "node:http";

const [name, log, ...ports] = process.argv.slice(2);
const say = (line) => appendFileSync(log, line + "\n");

for (const port of ports) {
  const server = createServer((request, response) => {
    let size = 0;
    request.on("data", (chunk) => (size += chunk.length));
    request.on("end", () => {
      const { remoteAddress, localPort } = request.socket;
      const user = request.headers["x-user"] ?? "";
      say(`request ${request.method} ${request.url} peer=${remoteAddress} local=${localPort} body=${size} user=${user}`);
      response.setHeader("X-Program", name);
      response.end(`program ${name} ${request.method} ${request.url} body=${size}\n`);
    });
  });
  server.listen(Number(port), () => say(`listening ${server.address().port}`));
}
