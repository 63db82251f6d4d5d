import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.net.HttpURLConnection;
import java.net.InetSocketAddress;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.Executors;

/**
 * A JDK HTTP service with a pool of 32 threads that nobody instrumented.
 *
 * GET /call?id=ID calls $DOWNSTREAM?id=ID by HttpURLConnection and returns
 * what it answered. Connections are kept unless -Dhttp.keepAlive=false.
 */
public final class Mid {
    public static void main(String[] args) throws IOException {
        int port = Integer.parseInt(System.getenv("PORT"));
        String downstream = System.getenv("DOWNSTREAM");
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 128);
        server.setExecutor(Executors.newFixedThreadPool(32));
        server.createContext("/ready", x -> answer(x, 200, "ok".getBytes(StandardCharsets.UTF_8)));
        server.createContext("/call", x -> {
            try {
                call(x, downstream);
            } catch (IOException e) {
                answer(x, 502, e.toString().getBytes(StandardCharsets.UTF_8));
            }
        });
        server.start();
    }

    private static void call(HttpExchange x, String downstream) throws IOException {
        // The query is "id=…" and nothing else.
        URI target = URI.create(downstream + "?" + x.getRequestURI().getRawQuery());
        HttpURLConnection c = (HttpURLConnection) target.toURL().openConnection();
        try (InputStream in = c.getInputStream()) {
            answer(x, c.getResponseCode(), in.readAllBytes());
        }
    }

    private static void answer(HttpExchange x, int status, byte[] body) throws IOException {
        x.sendResponseHeaders(status, body.length);
        x.getResponseBody().write(body);
        x.close();
    }
}
