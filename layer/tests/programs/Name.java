import java.net.InetAddress;

/** The host name, as most Java programs ask for it: by a look-up. */
public class Name {
    public static void main(String[] arguments) throws Exception {
        System.out.println(InetAddress.getLocalHost().getHostName());
    }
}
