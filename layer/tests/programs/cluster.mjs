// A cluster as Node makes them: with "rr" the primary accepts and hands connections over, with "none" the workers accept on a
// listener that was handed to them. Both by SCM_RIGHTS.
import cluster from "node:cluster";
import http from "node:http";

const [, , policy, port] = process.argv;
cluster.schedulingPolicy = policy === "rr" ? cluster.SCHED_RR : cluster.SCHED_NONE;
if (cluster.isPrimary) {
  cluster.on("listening", () => console.log("listening"));
  cluster.fork();
} else {
  http
    .createServer((request, response) => {
      const { remoteAddress, remotePort } = request.socket;
      response.setHeader("Connection", "close");
      response.end(`client=${remoteAddress}:${remotePort} pid=${process.pid}`);
    })
    .listen(Number(port));
}
setTimeout(() => process.exit(0), 120_000);
