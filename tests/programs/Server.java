import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.concurrent.Executors;

/** Web server on com.sun.net.httpserver. Arguments: NAME LOG PORT...; says in LOG where it listens and what it was asked. */
public class Server {
    static Path log;

    static synchronized void say(String line) {
        try {
            Files.writeString(log, line + "\n", StandardOpenOption.CREATE, StandardOpenOption.APPEND);
        } catch (java.io.IOException error) {
            throw new java.io.UncheckedIOException(error);
        }
    }

    public static void main(String[] arguments) throws Exception {
        String name = arguments[0];
        log = Path.of(arguments[1]);
        for (int i = 2; i < arguments.length; i++) {
            HttpServer server = HttpServer.create(new InetSocketAddress(Integer.parseInt(arguments[i])), 128);
            server.setExecutor(Executors.newCachedThreadPool());
            server.createContext("/", exchange -> {
                int size = exchange.getRequestBody().readAllBytes().length;
                String asked = exchange.getRequestMethod() + " " + exchange.getRequestURI();
                String user = exchange.getRequestHeaders().getFirst("x-user");
                say("request " + asked + " peer=" + exchange.getRemoteAddress().getAddress().getHostAddress() + " local="
                    + exchange.getLocalAddress().getPort() + " body=" + size + " user=" + (user == null ? "" : user));
                byte[] text = ("program " + name + " " + asked + " body=" + size + "\n").getBytes(StandardCharsets.UTF_8);
                exchange.getResponseHeaders().set("X-Program", name);
                exchange.sendResponseHeaders(200, text.length);
                exchange.getResponseBody().write(text);
                exchange.close();
            });
            server.start();
            say("listening " + server.getAddress().getPort());
        }
    }
}
