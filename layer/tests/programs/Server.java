import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;

/** Answers with the client's address and its own, as Java knows them; "/stop" closes the listener. */
public class Server {
    public static void main(String[] arguments) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress(Integer.parseInt(arguments[0])), 0);
        server.createContext("/", exchange -> {
            byte[] body = ("client=" + exchange.getRemoteAddress() + " own=" + exchange.getLocalAddress()).getBytes();
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
            if (exchange.getRequestURI().getPath().equals("/stop")) {
                new Thread(() -> server.stop(0)).start();
            }
        });
        server.start();
        System.out.println("bound " + server.getAddress());
        Thread.sleep(120_000);
    }
}
